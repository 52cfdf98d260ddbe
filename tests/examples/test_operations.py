"""docs/operations.md is true: its unit files load and are restrictive, and its alerts name metrics that exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from scalesocket.metrics import TEXT, expose
from scalesocket.status import AppStatus, Counts, OwnNodeStatus, SiteStatus, WorkerStatus
from tests.examples.test_docs import ROOT, find_blocks

PAGE: Final = ROOT / "docs" / "operations.md"
SYSTEMD: Final = shutil.which("systemd-analyze")
MOST_EXPOSED: Final = "20"
"""Of 100, which an unrestricted service has. Below 20, `systemd-analyze security` says OK: 2.0 of 10."""


def write_units(folder: Path) -> Path:
    """Write the unit files of the page to a folder, with programs and a user that exist; return the service."""
    service, listener = find_blocks(PAGE, "ini")
    service = service.replace("/opt/scalesocket/bin/scalesocket", "/bin/true").replace("User=scalesocket", "User=daemon")
    (folder / "scalesocket.socket").write_text(listener)
    (folder / "scalesocket.service").write_text(service)
    return folder / "scalesocket.service"


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze (apt-get install systemd)")
def test_systemd_loads_the_unit_files_without_a_warning(tmp_path: Path) -> None:
    assert SYSTEMD is not None
    service = write_units(tmp_path)

    verified = subprocess.run([SYSTEMD, "verify", "--man=no", service], capture_output=True, text=True, check=False)

    assert verified.returncode == 0, verified.stderr
    assert not [line for line in verified.stderr.splitlines() if "scalesocket." in line]


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze (apt-get install systemd)")
def test_the_service_is_restricted(tmp_path: Path) -> None:
    assert SYSTEMD is not None
    service = write_units(tmp_path)

    judged = subprocess.run(
        [SYSTEMD, "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", service],
        capture_output=True,
        text=True,
        check=False,
    )

    assert judged.returncode == 0, judged.stdout + judged.stderr


def test_the_alerts_name_metrics_that_exist() -> None:
    app = AppStatus(
        name="chat",
        mount="/chat",
        target="cat",
        rooms=(),
        connections=0,
        rooms_total=0,
        counts=Counts(),
        backend_starts=0,
        backend_failures=0,
        backend_exits={"0": 1},
        refusals={"origin": 1},
    )
    status = SiteStatus(
        apps=(app,),
        connections=0,
        is_draining=False,
        generation=1,
        applied_at=0.0,
        last_error=None,
        public_error=None,
        refusals={},
        workers=(WorkerStatus(index=0, pid=1, state="serving", rooms=0, connections=0, restarts=0, since=1.0),),
        cluster=OwnNodeStatus(
            node="a1",
            cluster="games",
            is_drained=False,
            is_engine_up=True,
            lease_seconds_left=1.0,
            leases_lost=0,
            owned=0,
            held=0,
            claims={"won": 1},
            claim_seconds=0.1,
            hand_overs={"taken": 1},
            hand_over_seconds=0.1,
            arrivals={"taken": 1},
        ),
    )

    named = set(re.findall(r"\b(?:scalesocket|process)_\w+", PAGE.read_text()))
    exposed = set(re.findall(r"^\w+", expose(status, by_room=False, form=TEXT).decode(), re.MULTILINE))

    assert named
    assert named <= exposed
