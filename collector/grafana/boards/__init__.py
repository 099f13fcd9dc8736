"""The pages, in the order in which somebody who looks for a fault opens them."""

from collector.grafana.boards import fleet, machine, node, pipeline, rollout

BOARDS = (fleet.BOARD, machine.BOARD, node.BOARD, rollout.BOARD, pipeline.BOARD)
