"""Run an app in Flower's own simulation runtime (Ray): `python flower_runtime.py APP_DIR NODES KEY=VALUE...`.

It calls what the process that `flwr run` starts calls, with the app's references and fused run config.
"""

import os
import sys
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.common.config import get_fused_config_from_dir, get_project_config, parse_config_args
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType

RUN, TASK, SERVER = 11, 12, 1


def main(folder: Path, nodes: int, overrides: list[str]) -> None:
    config = parse_config_args(overrides)
    components = get_project_config(folder)["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(RUN)
    run.primary_task_id, run.federation_id, run.override_config = TASK, NOOP_FEDERATION_ID, config
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, TASK
    context = Context(RUN, SERVER, {}, RecordDict(), get_fused_config_from_dir(folder, config))
    _run_simulation(
        num_supernodes=nodes,
        exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        client_app_attr=components["clientapp"],
        server_app_attr=components["serverapp"],
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False},
        },
        app_dir=str(folder),
        run=run,
        is_app=True,
        server_app_context=context,
    )


if __name__ == "__main__":
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3:])
