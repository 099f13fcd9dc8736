"""The broker's password and access files, and mosquitto's own opinion of the former."""

import subprocess
from pathlib import Path

import pytest

from contract.errors import TopicError
from tests.rig.installed import require
from training.errors import EnrolmentError
from training.fleet.enrolment import access_rules as users

SALT = bytes(range(users.SALT_BYTES))


def test_password_line_is_mosquittos() -> None:
    """A line that mosquitto_passwd 2.0.11 wrote comes out again, of its password and salt."""
    line = (
        "b:$7$101$/o/1Q1KrbW1MnjFu$KNNly9N3CYa8vD3BT5YUG9Kl3qmswUXs8LXAbcI43bV68aAu8sXTYMAQbbxl9/"
        "rSgnv6zFUaL3MqMc9Lm+OK4w=="
    )
    salt = bytes.fromhex("fe8ff54352ab6d6d4c9e316e")

    assert users.password_line("b", "secret", salt) == line


def test_mosquitto_passwd_works_on_our_file(tmp_path: Path) -> None:
    """Its own tool changes one user of the file and leaves the others as they are."""
    ours = [users.password_line(name, "secret", SALT) for name in ("press-07", "press-08")]
    file = tmp_path / "passwords"
    file.write_text("".join(f"{line}\n" for line in ours))
    file.chmod(0o600)

    program = require("mosquitto_passwd")
    subprocess.run([program, "-b", str(file), "press-08", "another"], check=True)

    lines = file.read_text().splitlines()
    assert lines[0] == ours[0]
    assert users.users(file.read_text()) == ("press-07", "press-08")
    assert lines[1] != ours[1]


def test_a_password_does_not_show() -> None:
    """Two nodes with one password have different lines, and it is in neither."""
    lines = {users.password_line("a", "secret", salt) for salt in (SALT, SALT[::-1])}

    assert len(lines) == 2
    assert not any("secret" in line for line in lines)


def test_a_user_has_one_line() -> None:
    """A new password takes the old one's place; similar names stay."""
    before = "press-07:old\npress-071:x\n# comment\n"

    assert users.with_password(before, "press-07:new") == "press-071:x\n# comment\npress-07:new\n"
    assert users.without_password(before, "press-07") == "press-071:x\n# comment\n"


def test_groups_come_change_and_go() -> None:
    """Only the lines of the node in question are touched; what people added stays."""
    others = "user anna\ntopic read earshot/1/#\n"
    in_two = users.with_group(others, "press-07", "line-2")
    in_three = users.with_group(in_two, "press-07", "line-3")

    assert in_two == f"{others}user press-07\ntopic read earshot/1/g/line-2/desired\n"
    assert in_three == in_two.replace("line-2", "line-3")
    assert users.with_group(in_three, "press-07", None) == others
    assert users.without_node(in_three, "press-0") == in_three


def test_rules_for_all_are_replaced_and_nodes_kept() -> None:
    """After an upgrade the file has the new rules, and all that was enrolled."""
    enrolled = users.with_group("", "press-07", "line-2")
    before = users.access_file("pattern write a\n", enrolled)

    after = users.access_file("pattern write b\n", users.enrolled_part(before))

    assert users.enrolled_part(after) == enrolled
    assert "pattern write a" not in after


def test_a_file_without_the_line_is_refused() -> None:
    """Where rules for all end and those of nodes begin is not guessed."""
    with pytest.raises(EnrolmentError, match="fleet secrets"):
        users.enrolled_part("pattern write a\n")


@pytest.mark.parametrize("name", users.BROKER_USERS)
def test_no_node_is_called_as_a_user_with_other_rights(name: str) -> None:
    """A node named `operator` would command the fleet."""
    with pytest.raises(EnrolmentError, match=name):
        users.checked_node(name)


@pytest.mark.parametrize("name", ["press/07", "+", "#", "a:b", "", "Press", "x\ny", "x y"])
def test_no_node_has_a_name_that_means_more(name: str) -> None:
    """Neither in a topic nor in a line of the files."""
    with pytest.raises(TopicError):
        users.checked_node(name)
