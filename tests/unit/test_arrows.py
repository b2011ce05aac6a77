"""The recorder of connections sees a connection, its direction, and nothing else."""

import os
import socket
import subprocess
import sys

import pytest

from tests import arrows


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_connection_is_seen_from_the_side_that_opened_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        names = {server.getsockname()[1]: "orders", other.getsockname()[1]: "payments"}
        recorder = arrows.Recorder(names, lambda: {os.getpid(): "gateway"})
        recorder.sample()
        assert recorder.seen == set()
        with socket.create_connection(server.getsockname()):
            recorder.sample()
            by_user = arrows.Recorder(names, dict, {os.geteuid(): "a user"})
            by_user.sample()
        assert recorder.seen == {("gateway", "orders")}
        assert by_user.seen == {("a user", "orders")}
        recorder = arrows.Recorder(names, lambda: {1: "storefront"})
        recorder.sample()
        assert recorder.seen == set()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_process_that_has_just_ended_has_no_name() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert arrows._name(ended.pid) == ""
    assert arrows._name(os.getpid()) == "unknown"
    ended.wait()


def test_the_policies_allow_what_the_architecture_says_between_services() -> None:
    between = {(one, other) for one, other in arrows.allowed() if other == "payments"}
    assert between == {("gateway", "payments"), ("console", "payments")}
    assert ("storefront", "postgres") not in arrows.allowed()
    assert ("gateway", "postgres") not in arrows.allowed()
