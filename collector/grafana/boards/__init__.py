"""The pages, in the order in which somebody who looks for a fault opens them."""

from collector.grafana.boards import fleet, machine, node, pipeline, rollout

BOARDS = (fleet.BOARD, machine.BOARD, node.BOARD, rollout.BOARD, pipeline.BOARD)


def panel_id(uid: str, title: str) -> int:
    """The id of the panel with this title, on the page with this uid."""
    (board,) = (board for board in BOARDS if board.uid == uid)
    return board.titles.index(title) + 1
