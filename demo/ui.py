"""
Airflow's own UI and the simulator's page, side by side on the example DAGs, until Ctrl-C.

Everything is on loopback and in the folder ``.ui/``.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

from local_airflow import TICK, LocalAirflow
from loopback import AirflowError

from airflow_anon.runs import WorkflowRunStatus
from airflow_anon.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".ui"
DAG_ID = "anon_wait_for_run"
SCRIPT = (
    f"{WorkflowRunStatus.PENDING} 5s, {WorkflowRunStatus.IN_PROGRESS} (post_invoice) 10s, "
    f"{WorkflowRunStatus.AWAITING_USER_INPUT} (approve) until answered, "
    f"{WorkflowRunStatus.IN_PROGRESS} (pay) 5s, {WorkflowRunStatus.COMPLETED}"
)
WHAT_TO_DO = """
  Simulator's page   {page}
  Airflow            {airflow}/dags/{dag_id}

  1. On the page, copy the id of the run:  {run_id}
  2. In Airflow, press Trigger, paste the id as workflow_run_id, and trigger.
  3. On the page, press Answer when the run waits for user input. The DAG goes green.

Ctrl-C ends both.
"""


def main() -> int:
    """Serve both until interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    try:
        with Simulator(token=secrets.token_hex(8)) as simulator:
            # Airflow's link from a task to its run leads to the run on the page.
            connection = simulator.connection(run_url_template=f"{simulator.page_url}#{{id}}")
            print("Airflow creates its database and starts; this takes half a minute or more.")
            with LocalAirflow(
                HOME, ROOT / "airflow_provider_anon" / "example_dags", AIRFLOW_CONN_ANON_DEFAULT=connection
            ) as airflow:
                airflow.wait_for_dag(DAG_ID)
                introduce(simulator, airflow)
                while True:
                    airflow.check()
                    time.sleep(TICK)
    except AirflowError as error:
        print(f"This failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nBoth are stopped.")
        return 0


def introduce(simulator: Simulator, airflow: LocalAirflow) -> None:
    """Create a first run, and print what there is to see."""
    run_id = simulator.create_run(SCRIPT)
    print(
        WHAT_TO_DO.format(page=simulator.page_url, airflow=airflow.url, dag_id=DAG_ID, run_id=run_id), end=""
    )


if __name__ == "__main__":
    sys.exit(main())
