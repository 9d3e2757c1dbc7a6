"""`callsheet tick`: every loop once, where nothing may run between requests."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from service.cli.environment import read_settings
from service.cli.parameters import DURATION
from service.cli.printing import Printer, seconds

if TYPE_CHECKING:
    from service.settings import Settings


@click.command()
@click.option("--budget", type=DURATION, default="50s", show_default=True, help="How long to go on taking up work.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(budget: float, as_json: bool) -> None:
    """Submit, poll and deliver what is due, then stop. Opens the database itself; a schedule calls it.

    Where a service runs the loops already there is nothing to do: it says so and exits 0.

    \b
    * * * * *  cd /srv/callsheet && callsheet tick --budget 50s
    """
    result = asyncio.run(_tick(read_settings(), budget))
    from service.conversation import SHORTEST_SUBMIT_S

    if budget <= SHORTEST_SUBMIT_S:
        least = seconds(SHORTEST_SUBMIT_S)
        click.echo(f"the budget is too short: no submit is started with less than {least} left", err=True)
    if not result["ran"]:
        Printer(as_json=as_json).said(result, f"nothing to do: {result['held_by']}")
        return
    left = "nothing is due any more" if result["finished"] else f"more was due after {seconds(budget)}"
    Printer(as_json=as_json).said(result, f"{result['steps']} steps, {left}")


async def _tick(settings: "Settings", budget: float) -> dict[str, Any]:
    from service.app import build
    from service.cli.logs import configure_logging
    from service.errors import LockHeld

    configure_logging(settings)
    service = await build(settings, own_loops=False)
    try:
        service.context.store.own_loops("tick")
        await service.context.store.recover_leases()
        await service.fleet.join(service.context.store)
        await service.settle_copy()
        return {"ran": True, **await service.context.loops.tick(budget)}
    except LockHeld as held:
        return {"ran": False, "held_by": str(held)}
    finally:
        await service.close()
