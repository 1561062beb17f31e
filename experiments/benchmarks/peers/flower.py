"""Flower's own simulation: the app of `flower_app` on its Ray runtime, one client on one core."""

from __future__ import annotations

import argparse
from importlib.metadata import version

from flwr.simulation import run_simulation

from fedsim.experiments.benchmarks.peers.flower_app import make_client_app, make_server_app
from fedsim.experiments.benchmarks.work import Work


def main() -> None:
    """Do the work and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work")
    parser.add_argument("report")
    arguments = parser.parse_args()
    work = Work.load(arguments.work)
    versions = {name: version(name) for name in ("flwr", "ray", "torch", "numpy")}
    run_simulation(
        server_app=make_server_app(arguments.work, arguments.report, versions),
        client_app=make_client_app(arguments.work),
        num_supernodes=work.case.clients,
        backend_config={
            "init_args": {"num_cpus": work.cores, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main()
