"""`earshot collector health`: ask the collector that runs on this machine how it is.

For a container's health check and a watchdog. The exit code is 1 if it is not healthy.
"""

import argparse
import os

from collector.commands import EXIT_NOT_DONE
from collector.commands.shared_options import add_config_option, settings_path

SUMMARY = "ask the collector that runs here; exit code 1 if it is not healthy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the settings file, which says where to ask."""
    add_config_option(parser)


def run(options: argparse.Namespace) -> int:
    """Ask and tell; 1 if it is not healthy."""
    from collector import health_endpoint, settings

    listen = settings.load_section(settings_path(options), os.environ).health_listen
    if listen is None:
        raise health_endpoint.HealthAddressError(
            "[collector] health_listen: not set, so nobody can be asked; for example"
            ' health_listen = "127.0.0.1:8088"'
        )
    found = health_endpoint.ask(listen)
    print("healthy" if found.healthy else f"not healthy: {found.reason}")
    return 0 if found.healthy else EXIT_NOT_DONE
