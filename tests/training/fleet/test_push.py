"""A release pushed over a real broker to small working nodes."""

import math
import re
import signal
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from contract import topics
from contract.desired import cohort_percent
from contract.errors import EarshotError, TopicError
from contract.messages import decode, encode
from contract.release import CHUNK_BYTES, ENVELOPE_NAME, MANIFEST_NAME, encode_manifest
from contract.signature import MAX_ENVELOPE_BYTES, read_public_keys
from contract.signed_desired import open_desired, sign_desired
from contract.signed_manifest import sign_manifest
from contract.states import UpdatePhase
from contract.topics import Kind
from tests.rig.brokers import Mosquitto
from tests.rig.peers import Ear
from tests.rig.programs import ROOT
from tests.rig.signers import SECOND, SIGNER, STRANGER, TRUSTED
from tests.rig.virtual_nodes import Script, VirtualNode, birth
from tests.rig.waiting import wait_until
from tests.training.fleet.operating import (
    ALL,
    WAITING,
    LiveEar,
    access,
    command,
    fleet,
    in_cohort,
    kept,
    operator,
    order,
    order_at,
    pushed,
    put,
    run,
)
from tests.training.packed import content, manifest, packed, release
from training.errors import DestinationError
from training.fleet.broker import retained
from training.fleet.orders import EXIT_NOT_ALL, EXIT_TIMED_OUT, Waiting
from training.fleet.push import PushRefusedError, PushRequest, push
from training.fleet.rollout_screen import Screen


def kinds(ear: Ear) -> list[str]:
    """Blob, release or desired, in order of arrival."""
    found = [topics.parse(message.topic).kind for message in ear.received()]
    return [kind for kind in found if kind in ("blob", "release", "desired")]


def test_a_push_reaches_every_node(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All fetch it, commit it, and are in the table; the exit code says that all did."""
    folder = release(tmp_path)
    nodes = [VirtualNode(broker, name) for name in ("press-a", "press-b", "press-c")]
    with fleet(nodes):
        code = pushed(broker, folder, waiting=WAITING)

    out, err = capsys.readouterr()
    assert code == 0
    assert {node.running for node in nodes} == {"fan@2"}
    assert all(len(node.fetched) == 1 for node in nodes)
    assert "3 of 3 nodes have committed it" in out
    (row,) = [line for line in out.splitlines() if "press-b" in line]
    assert row.split() == ["1", "press-b", "committed", "fan@2", "2/1", "of", "30", "4.2"]
    assert "ring 1, press-c: committed" in err


def test_files_come_first_and_the_order_last(broker: Mosquitto, tmp_path: Path) -> None:
    """Whoever sees the order finds everything else; and no message is larger than promised."""
    folder = release(tmp_path)
    with LiveEar(broker) as ear:
        code = pushed(broker, folder)
        wait_until(lambda: "desired" in kinds(ear), "the order")

    assert code == 0
    assert kinds(ear) == ["blob"] * 4 + ["release", "desired"]
    for message in ear.received():
        blob = topics.parse(message.topic).kind == "blob"
        assert len(message.payload) <= (CHUNK_BYTES if blob else MAX_ENVELOPE_BYTES)
    chunks = [message.payload for message in ear.received()[:4]]
    assert b"".join(chunks) == content(seed=2)
    assert kept(broker, "earshot/1/release/+/+") == {
        "earshot/1/release/fan/2": (folder / ENVELOPE_NAME).read_bytes()
    }


def test_nobody_there_is_a_warning_alone(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes that come later find it."""
    code = pushed(broker, release(tmp_path), "group:line-9")
    with fleet([node := VirtualNode(broker, "press-a", group="line-9")]):
        node.wait_for(UpdatePhase.COMMITTED)

    assert code == 0
    assert "no node at group:line-9 has been heard of" in capsys.readouterr().err
    assert node.running == "fan@2"


def test_nodes_that_cannot_run_it_are_listed_and_nothing_is_sent(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """With the reason of each; those elsewhere do not matter."""
    file = content()
    made = manifest(file, version=2, runtimes=("ai-edge-litert",))
    folder = packed(tmp_path, made, file)
    stranger = read_public_keys(STRANGER.public_pem)
    nodes = [
        VirtualNode(broker, "fine", group="line-2"),
        VirtualNode(broker, "closed", group="line-2", trusted={}),
        VirtualNode(broker, "foreign", group="line-2", trusted=stranger),
        VirtualNode(broker, "old-library", group="line-2", runtime="tflite-runtime"),
        VirtualNode(broker, "ahead", group="line-2", running="fan@3"),
        VirtualNode(broker, "elsewhere", group="line-3", trusted={}),
    ]
    with fleet(nodes), pytest.raises(PushRefusedError) as refused:
        pushed(broker, folder, "group:line-2")

    text = str(refused.value)
    assert "fan@2 was not sent: 4 of 5 nodes at group:line-2 cannot run it" in text
    assert "closed takes no updates" in text
    assert f"foreign does not trust the key {SIGNER.key_id[:12]}" in text
    assert "old-library has tflite-runtime" in text
    assert "ahead runs fan@3, which is newer; `earshot fleet rollback` goes back" in text
    assert "fine" not in text
    assert "elsewhere" not in text
    assert kept(broker, "earshot/1/release/+/+", "earshot/1/blob/+/+", "earshot/1/+/desired") == {}


def test_a_release_that_names_no_runtimes_goes_to_any(broker: Mosquitto, tmp_path: Path) -> None:
    """Nothing is known against it; the node's own test decides."""
    with fleet([node := VirtualNode(broker, "press-a", runtime="tflite-runtime")]):
        assert pushed(broker, release(tmp_path), waiting=WAITING) == 0

    assert node.running == "fan@2"


def test_a_version_that_is_taken_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """The broker keeps another of this label: the next free version is named."""
    pushed(broker, release(tmp_path, 2))
    pushed(broker, release(tmp_path, 6))
    other = content(seed=99)
    folder = packed(tmp_path, manifest(other, version=2), other, name="another")
    before = kept(broker, "earshot/1/#")

    with pytest.raises(
        PushRefusedError, match=r"another fan@2 already; pack this one as version 7"
    ):
        pushed(broker, folder)

    assert kept(broker, "earshot/1/#") == before


def test_an_expired_release_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """No node would take it on."""
    file = content()
    folder = packed(tmp_path, manifest(file, not_after_us=1_000_000), file)

    with pytest.raises(PushRefusedError, match="fan@2 is too old to be taken on by any node"):
        pushed(broker, folder)


def test_a_folder_without_signature_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """It says which command makes one."""
    folder = release(tmp_path)
    (folder / ENVELOPE_NAME).unlink()

    with pytest.raises(DestinationError, match=r"is not signed; `.*earshot training release"):
        pushed(broker, folder)


def test_a_manifest_that_was_changed_after_signing_is_refused(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """What is pushed is what was signed, and what lies there for people to read."""
    folder = release(tmp_path)
    made = manifest(content(seed=2), version=2)
    changed = msgspec.structs.replace(made, description="another")
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(changed))

    with pytest.raises(DestinationError, match=r"manifest\.json has changed since it was signed"):
        pushed(broker, folder)


def test_a_release_of_another_key_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """Nobody signs an order for what somebody else has packed."""
    folder = release(tmp_path)
    envelope = sign_manifest(manifest(content(seed=2), version=2), STRANGER)
    (folder / ENVELOPE_NAME).write_bytes(envelope)

    with pytest.raises(DestinationError, match="is signed by another key than"):
        pushed(broker, folder)


def test_an_address_that_is_none_is_refused(broker: Mosquitto, tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(TopicError, match="Expected all, group:NAME or node:ID"):
        pushed(broker, release(tmp_path), "nodes")


def test_a_threshold_alone_sends_no_bytes(broker: Mosquitto, tmp_path: Path) -> None:
    """Only the order changes; nodes keep their model."""
    folder = release(tmp_path)
    with fleet([node := VirtualNode(broker, "press-a")]):
        assert pushed(broker, folder, waiting=WAITING) == 0
        with LiveEar(broker) as ear:
            assert pushed(broker, folder, waiting=WAITING, threshold=3.5) == 0

    order = order_at(broker, "all")
    assert kinds(ear) == ["desired"]
    assert order.wanted is not None
    assert order.wanted.threshold == 3.5
    assert order.before == msgspec.structs.replace(order.wanted, threshold=None)
    assert len(node.fetched) == 1


def test_resend_sends_them_again(broker: Mosquitto, tmp_path: Path) -> None:
    """For a broker that has lost some."""
    folder = release(tmp_path)
    pushed(broker, folder)
    with LiveEar(broker) as ear:
        assert pushed(broker, folder, resend=True) == 0

    assert kinds(ear) == ["blob"] * 4 + ["release", "desired"]


def test_rings_go_one_after_the_other(broker: Mosquitto, tmp_path: Path) -> None:
    """A node of the second ring hears of the release when all of the first have committed it."""
    first, second = in_cohort(0, 10, 2), in_cohort(10, 100, 2)
    nodes = {name: VirtualNode(broker, name) for name in first + second}
    with fleet(list(nodes.values())), LiveEar(broker) as ear:
        code = pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=WAITING)

    orders = [
        open_desired(ALL, message.payload, TRUSTED)
        for message in ear.received()
        if message.topic == ALL
    ]
    early = [s for name in first for s, p in nodes[name].phases if p is UpdatePhase.DOWNLOADING]
    late = [s for name in second for s, p in nodes[name].phases if p is UpdatePhase.DOWNLOADING]
    assert code == 0
    assert [order.percent for order in orders] == [10.0, 100.0]
    assert orders[0].serial < orders[1].serial
    assert set(early) == {orders[0].serial}
    assert set(late) == {orders[1].serial}


def test_a_ring_that_fails_stops_the_rollout(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order then asks nobody any more, and what was before is wanted again."""
    first, second = in_cohort(0, 10, 2), in_cohort(10, 100, 1)
    script = Script(ends=UpdatePhase.ROLLED_BACK, reason="the trial flags 9 of 10 windows")
    nodes = [VirtualNode(broker, first[0], script=script)]
    nodes += [VirtualNode(broker, name) for name in (first[1], *second)]
    with fleet(nodes):
        pushed(broker, release(tmp_path, 2))
        wait_until(lambda: nodes[2].running == "fan@2", "the release before")
        waiting = Waiting(timeout_seconds=30.0, stop_share=0.05)
        code = pushed(broker, release(tmp_path, 3), "all", 10.0, 100.0, waiting=waiting)

    order = order_at(broker, "all")
    assert code == EXIT_NOT_ALL
    assert order.percent == 0
    assert order.before is not None
    assert order.before.release == "fan@2"
    assert (nodes[0].running, nodes[2].running) == ("fan@1", "fan@2")
    out, err = capsys.readouterr()
    assert "stopped: no node at all follows it any more" in err
    assert f"{first[0]} runs fan@1: rolled back, the trial flags 9 of 10 windows" in out


def test_a_failure_below_the_limit_stops_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    """The rollout goes on; that not all have it is in the exit code."""
    failing = Script(ends=UpdatePhase.REJECTED, reason="NaN")
    names = in_cohort(0, 100, 3)
    nodes = [VirtualNode(broker, names[0], script=failing)]
    nodes += [VirtualNode(broker, name) for name in names[1:]]
    with fleet(nodes):
        waiting = Waiting(timeout_seconds=30.0, stop_share=0.5)
        code = pushed(broker, release(tmp_path), waiting=waiting)

    assert code == EXIT_NOT_ALL
    assert [node.running for node in nodes] == ["fan@1", "fan@2", "fan@2"]
    assert order_at(broker, "all").percent == 100


def test_who_obeys_a_nearer_order_is_listed_and_not_waited_for(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One node has an order of its own and keeps to it; it does not stand in the way either."""
    own = VirtualNode(broker, "press-own", runtime="tflite-runtime")
    file = content(seed=7)
    everywhere = packed(
        tmp_path, manifest(file, version=7, runtimes=("ai-edge-litert",)), file, name="seven"
    )
    with fleet([own, node := VirtualNode(broker, "press-a")]):
        assert pushed(broker, release(tmp_path, 2), "node:press-own", waiting=WAITING) == 0
        code = pushed(broker, everywhere, waiting=WAITING)

    assert code == 0
    assert (own.running, node.running) == ("fan@2", "fan@7")
    assert "press-own obeys the order for node:press-own" in capsys.readouterr().out


def test_who_is_offline_is_listed_and_not_waited_for(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It finds the release when it comes back."""
    with fleet([VirtualNode(broker, "press-away")]):
        pass
    with fleet([VirtualNode(broker, "press-a")]):
        code = pushed(broker, release(tmp_path), waiting=WAITING)

    assert code == 0
    out = capsys.readouterr().out
    assert "1 of 2 nodes has committed it" in out
    assert "press-away is offline, and will find it when it comes back" in out


def test_nothing_is_known_where_all_are_offline(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order stands, but whoever waits is not told that all is well."""
    with fleet([VirtualNode(broker, "press-away")]):
        pass
    code = pushed(broker, release(tmp_path), waiting=WAITING)

    assert code == EXIT_NOT_ALL
    assert "0 of 1 node has committed it" in capsys.readouterr().out


def test_a_node_without_an_outcome_is_waited_for_until_the_time_is_up(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own exit code, and the node is named; the next ring is not begun."""
    names = in_cohort(0, 10, 1) + in_cohort(10, 100, 1)
    hanging = VirtualNode(broker, names[0], script=Script(ends=None))
    with fleet([hanging, VirtualNode(broker, names[1])]):
        waiting = Waiting(timeout_seconds=3.0)
        code = pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=waiting)

    assert code == EXIT_TIMED_OUT
    assert (
        f"{names[0]} has no outcome in time, and the order stands: trial" in capsys.readouterr().out
    )
    assert order_at(broker, "all").percent == 10


def test_a_node_that_dies_of_the_release_is_waited_for(broker: Mosquitto, tmp_path: Path) -> None:
    """One that has begun and is gone is no node that was away: the next ring must not begin."""
    names = in_cohort(0, 10, 1) + in_cohort(10, 100, 1)
    dying = VirtualNode(broker, names[0], script=Script(ends=None))
    with fleet([VirtualNode(broker, names[1])]), ExitStack() as stack:
        stack.enter_context(dying)
        waiting = Waiting(timeout_seconds=6.0)
        codes: list[int] = []

        def work() -> None:
            codes.append(pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=waiting))

        pushing = threading.Thread(target=work)
        pushing.start()
        dying.wait_for(UpdatePhase.TRIAL)
        stack.close()
        pushing.join(30)

    assert codes == [EXIT_TIMED_OUT]
    assert order_at(broker, "all").percent == 10


def test_a_first_ring_without_nodes_ends_the_rollout(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tenth of a small fleet may be nobody: it says for how many to go on, and that works."""
    (name,) = in_cohort(10, 99, 1)
    with fleet([node := VirtualNode(broker, name)]):
        code = pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=WAITING)
        err = capsys.readouterr().err
        ended = (code, node.running, order_at(broker, "all").percent)
        (words,) = re.findall(r"go on with `.*earshot fleet (promote .*)`", " ".join(err.split()))
        gone_on = run(broker, tmp_path, *words.split())

    percent = math.floor(cohort_percent(name)) + 1
    assert ended == (EXIT_NOT_ALL, "fan@1", 10)
    assert "nobody is waited for: ring 1, up to 10 %, has no nodes" in err
    assert f"the first node online is {name}, at {percent} %" in err
    assert words == f"promote --to all --wait --percent {percent},100"
    assert (gone_on.returncode, node.running) == (0, "fan@2"), gone_on.stderr


def test_a_ring_that_is_away_ends_the_rollout(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it would make of the release is not known; the rest is not ordered it."""
    (away,), (here,) = in_cohort(0, 10, 1), in_cohort(10, 100, 1)
    with fleet([VirtualNode(broker, away)]):
        pass
    with fleet([node := VirtualNode(broker, here)]):
        waiting = Waiting(timeout_seconds=30.0, stop_share=0.05)
        code = pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=waiting)

    assert (code, node.running) == (EXIT_NOT_ALL, "fan@1")
    assert order_at(broker, "all").percent == 10
    err = capsys.readouterr().err
    assert "has 1 offline" in err
    assert "earshot fleet promote --to all --wait --percent" in err


def test_a_last_ring_that_is_away_ends_nothing(broker: Mosquitto, tmp_path: Path) -> None:
    """No ring follows that it would have to prove the release for."""
    (first,), (away,) = in_cohort(0, 10, 1), in_cohort(10, 100, 1)
    with fleet([VirtualNode(broker, away)]):
        pass
    with fleet([node := VirtualNode(broker, first)]):
        code = pushed(broker, release(tmp_path), "all", 10.0, 100.0, waiting=WAITING)

    assert (code, node.running) == (0, "fan@2")
    assert order_at(broker, "all").percent == 100


def test_a_ring_without_nodes_passes_on_what_was_shown(broker: Mosquitto, tmp_path: Path) -> None:
    """The first ring has committed it; that nobody stands in the second takes nothing from it."""
    (first,), (last,) = in_cohort(0, 10, 1), in_cohort(50, 100, 1)
    with fleet(nodes := [VirtualNode(broker, first), VirtualNode(broker, last)]):
        code = pushed(broker, release(tmp_path), "all", 10.0, 50.0, 100.0, waiting=WAITING)

    assert code == 0
    assert [node.running for node in nodes] == ["fan@2", "fan@2"]


def test_a_node_that_is_excepted_stands_in_nobodys_way(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One without keys, and a dead or forged one: named, and waited for by nobody."""
    closed = VirtualNode(broker, "closed", trusted={})
    ghost = topics.node("ghost", Kind.BIRTH)
    put(broker, ghost, encode(birth("ghost", runtime="\x1b[2Jnone", capabilities=())))
    folder = str(release(tmp_path))
    with fleet([closed, node := VirtualNode(broker, "press-a")]):
        refused = run(broker, tmp_path, "push", folder, "--to", "all")
        still = run(broker, tmp_path, "push", folder, "--to", "all", "--except", "closed")
        words = ("push", folder, "--to", "all", "--wait", "--except", "closed,ghost")
        done = run(broker, tmp_path, *words)

    assert refused.returncode == 2
    assert "`--except closed,ghost` orders it all the same" in refused.stderr
    assert "`mosquitto_pub -r -n -t earshot/1/n/closed/birth`" in refused.stderr
    assert still.returncode == 2
    assert "1 of 3 nodes at all cannot run it: ghost takes no updates" in still.stderr
    assert "`--except closed,ghost` orders it all the same" in still.stderr
    assert f"-t {ghost}`" in still.stderr
    assert (done.returncode, node.running) == (0, "fan@2"), done.stderr
    assert "goes on without closed, which takes no updates" in done.stderr
    assert "goes on without ghost, which takes no updates" in done.stderr
    assert "left out" in done.stdout
    assert "1 of 3 nodes has committed it" in done.stdout


def test_a_dead_nodes_birth_is_cleared_as_the_refusal_says(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Then it is no node of the fleet any more."""
    ghost = topics.node("ghost", Kind.BIRTH)
    put(broker, ghost, encode(birth("ghost", capabilities=())))
    folder = release(tmp_path)
    with pytest.raises(PushRefusedError, match="ghost takes no updates"):
        pushed(broker, folder)

    put(broker, ghost, b"")

    assert pushed(broker, folder) == 0


def test_a_refusal_does_not_rule_the_terminal(broker: Mosquitto, tmp_path: Path) -> None:
    """What a node calls its library is shown in the error, and not obeyed."""
    evil = "\x1b]0;owned\x07\x1b[2Jtf"
    put(broker, topics.node("ghost", Kind.BIRTH), encode(birth("ghost", runtime=evil)))
    file = content()
    made = manifest(file, version=2, runtimes=("ai-edge-litert",))

    done = run(broker, tmp_path, "push", str(packed(tmp_path, made, file)), "--to", "all")

    assert done.returncode == 2
    assert "ghost has ?]0;owned??[2Jtf" in done.stderr
    assert all(line.isprintable() for line in done.stderr.splitlines())


def test_serials_rise_over_clocks_that_differ(broker: Mosquitto, tmp_path: Path) -> None:
    """An operator whose clock is behind still gives a higher serial than the last one."""
    far = 2**52
    put(broker, ALL, sign_desired(order("all", "fan@1", far), SIGNER))

    assert pushed(broker, release(tmp_path)) == 0

    assert order_at(broker, "all").serial == far + 1


def test_a_forged_serial_of_an_update_does_not_close_an_address(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator who believed it would sign the last serial that there is."""
    with fleet([VirtualNode(broker, "press-a")]):
        pushed(broker, release(tmp_path), waiting=WAITING)
        topic = topics.node("press-a", Kind.UPDATE)
        told = decode(topic, kept(broker, topic)[topic])
        ghost = msgspec.structs.replace(told, node="ghost", serial=2**53 - 1)
        put(broker, topics.node("ghost", Kind.UPDATE), encode(ghost))
        code = pushed(broker, release(tmp_path, 3), waiting=WAITING)

    assert code == 0
    assert order_at(broker, "all").serial < 2**52
    assert "ghost claim to obey an order for all that is more than a day ahead" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_an_order_without_our_signature_says_is_not_believed(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its serial nor what it wants: both would be a stranger's doing."""
    put(broker, ALL, sign_desired(order("all", "evil@9", 2**52), STRANGER))

    assert pushed(broker, release(tmp_path)) == 0

    given = order_at(broker, "all")
    assert given.serial < 2**52
    assert given.before is None
    assert "replaces an order for all that is not signed by us" in capsys.readouterr().err


def test_a_push_that_was_overtaken_says_so(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later order of somebody else, while this one is waited for."""
    hanging = VirtualNode(broker, "press-a", script=Script(ends=None))
    codes: list[int] = []
    folder = release(tmp_path)
    with fleet([hanging]):
        pushing = threading.Thread(
            target=lambda: codes.append(pushed(broker, folder, waiting=WAITING))
        )
        pushing.start()
        hanging.wait_for(UpdatePhase.TRIAL)
        put(broker, ALL, sign_desired(order("all", "fan@9", 2**52), SIGNER))
        pushing.join(30)

    assert codes == [EXIT_NOT_ALL]
    err = capsys.readouterr().err
    assert "another push has overtaken this one: all should now run fan@9" in err


def test_an_older_order_that_has_overwritten_ours_is_overwritten(
    broker: Mosquitto, tmp_path: Path
) -> None:
    """Two pushes in one moment: the one with the higher serial is what the broker keeps."""
    older = sign_desired(order("all", "fan@9", 5), SIGNER)
    folder = release(tmp_path)
    with operator(broker) as rival, LiveEar(broker) as ear:
        codes: list[int] = []
        pushing = threading.Thread(target=lambda: codes.append(pushed(broker, folder)))
        pushing.start()
        wait_until(lambda: "desired" in kinds(ear), "our order")
        assert len(list(rival.put([retained(ALL, older)]))) == 1
        pushing.join(30)

    wanted = order_at(broker, "all").wanted
    assert codes == [0]
    assert wanted is not None
    assert wanted.release == "fan@2"
    assert [message.topic for message in ear.received()].count(ALL) == 3


def test_a_second_key_that_nodes_trust_can_push(broker: Mosquitto, tmp_path: Path) -> None:
    """One takes the other's place; what the first has ordered is no obstacle."""
    with fleet([node := VirtualNode(broker, "press-a")]):
        assert pushed(broker, release(tmp_path), waiting=WAITING) == 0
        file = content(seed=3)
        folder = packed(tmp_path, manifest(file, version=3), file, signer=SECOND)
        request = PushRequest(release=folder, to="all", waiting=WAITING)
        trusted = read_public_keys(SECOND.public_pem)
        other = msgspec.structs.replace(access(broker), trusted=trusted)
        assert push(request, SECOND, other, Screen()) == 0

    assert node.running == "fan@3"


def test_a_broker_that_restarts_while_nodes_are_waited_for(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wait goes on when it is back."""
    hanging = VirtualNode(broker, "press-a", script=Script(ends=None))
    codes: list[int] = []
    folder = release(tmp_path)
    with fleet([hanging]):
        pushing = threading.Thread(
            target=lambda: codes.append(pushed(broker, folder, waiting=WAITING))
        )
        pushing.start()
        hanging.wait_for(UpdatePhase.TRIAL)
        broker.stop()
        broker.start()
        hanging.ends_with(UpdatePhase.COMMITTED)
        pushing.join(40)

    assert codes == [0]
    err = capsys.readouterr().err
    assert "is away" in err
    assert "is back" in err


def test_a_push_that_was_killed_is_given_again(broker: Mosquitto, tmp_path: Path) -> None:
    """Half of the chunks alone change nothing; the same command then does it all."""
    file = content(16 * 1024 * 1024)
    folder = packed(tmp_path, manifest(file), file)
    words = command(broker, tmp_path, "push", str(folder), "--to", "all")
    with LiveEar(broker) as ear:
        pushing = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: bool(ear.received()), "a first message")
        pushing.send_signal(signal.SIGKILL)
        pushing.wait(10)
        half = kept(broker, "earshot/1/release/+/+", ALL)

        with fleet([node := VirtualNode(broker, "press-a")]):
            done = run(broker, tmp_path, "push", str(folder), "--to", "all", "--wait")

    assert half == {}
    assert done.returncode == 0, done.stderr
    assert node.running == "fan@2"


def test_a_broker_that_restarts_in_the_middle_of_a_push(broker: Mosquitto, tmp_path: Path) -> None:
    """What it had not confirmed is sent again, and the release arrives whole."""
    file = content(16 * 1024 * 1024)
    folder = packed(tmp_path, manifest(file), file)
    words = command(broker, tmp_path, "push", str(folder), "--to", "all")
    with LiveEar(broker) as ear:
        pushing = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: bool(ear.received()), "a first message")
        broker.stop()
        broker.start()
        _, err = pushing.communicate(timeout=60)

    with fleet([node := VirtualNode(broker, "press-a")]):
        node.wait_for(UpdatePhase.COMMITTED)
    assert pushing.returncode == 0, err
    assert "is away" in err
    assert "is back" in err


def test_the_command_says_what_it_does(broker: Mosquitto, tmp_path: Path) -> None:
    """Where there is no terminal, lines; the table is all of standard output."""
    folder = release(tmp_path)
    with fleet([VirtualNode(broker, "press-a")]):
        done = run(broker, tmp_path, "push", str(folder), "--to", "all", "--wait")

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "earshot fleet: sent fan@2: 0.10 MB, 4 chunks"
    assert done.stdout.startswith("rollout ")
    assert "1 of 1 node has committed it" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--percent", "10,50"], "a list of percents only goes with --wait"),
        (["--stop-if-failed", "5%"], "--stop-if-failed only goes with --wait"),
        (["--timeout", "5"], "--timeout only goes with --wait"),
        (["--percent", "50,10", "--wait"], "expected a rising list of percents"),
        (["--except", "press-07,#"], "Expected an id of 1 to 32 lower case letters"),
        (["--to", "press-07"], "Expected all, group:NAME or node:ID"),
    ],
)
def test_what_does_not_go_together_is_said(
    words: list[str], expected: str, broker: Mosquitto, tmp_path: Path
) -> None:
    """In one line, with exit code 2, and nothing is sent."""
    done = run(broker, tmp_path, "push", str(release(tmp_path)), "--to", "all", *words)

    assert done.returncode == 2
    assert expected in done.stderr.splitlines()[-1]
    assert kept(broker, "earshot/#") == {}


def test_a_broker_that_is_not_there_is_one_line(tmp_path: Path, broker: Mosquitto) -> None:
    """With where it was looked for."""
    broker.stop()

    done = run(broker, tmp_path, "rollout")

    assert done.returncode == 2
    (warning, line) = done.stderr.splitlines()
    assert "signatures are not checked" in warning
    assert line.startswith(f"earshot fleet: no connection to the broker at {broker.host}")


def test_every_refusal_is_an_error_for_people() -> None:
    """The command line makes one line of it."""
    assert issubclass(PushRefusedError, EarshotError)
