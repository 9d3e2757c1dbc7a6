"""What jobs have cost over time, and the budgets that hold them back."""

from collections.abc import Iterable

from msgspec.structs import replace

from service.errors import Invalid, Missing
from service.spending import QUOTED, REPORTED, UNCERTAIN, Budget, Tally, Usage, period_began, total, usage_of
from service.states import Json
from service.views import instant
from service.web.calls import Call
from service.web.lists import sliced, whole
from service.web.queries import Query
from service.web.replies import NO_CONTENT, Reply, json_reply

DEFAULT_SPAN_MS = 30 * 86_400_000
FOR_EVER = 1 << 62  # milliseconds: later than any job
GROUPS = ("provider", "operation", "day")


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not set(names) <= set(GROUPS):
        raise ValueError(f"must be some of {', '.join(GROUPS)}, each once, with commas between.")
    return names


GROUP_BY = Query(
    name="group_by",
    summary="What the lines are told apart by, beside provider and unit: `operation`, `day`, or both with a comma",
    schema={"enum": ["provider", "operation", "day", "operation,day", "day,operation"], "default": "provider"},
    read=_groups,
)


async def usage(call: Call) -> Reply:
    """Newest day first. Amounts of different providers or units are never added up."""
    until = call.query.get("until", call.context.clock.now())
    since = call.query.get("since", max(0, until - DEFAULT_SPAN_MS))
    if since >= until:
        raise Invalid("`since` must be before `until`, which is now where it is not given.", param="since")
    tallies = await call.context.store.usage(
        call.tenant, since=since, until=until, by=call.query.get("group_by", ()), provider=call.query.get("provider")
    )
    return sliced(call, usage_of(tallies), _usage_view)


def _usage_view(line: Usage) -> Json:
    return {
        "provider": line.provider,
        "operation": line.operation,
        "day": line.day,
        "unit": line.unit,
        "jobs": line.jobs(),
        "open": line.jobs("open"),
        "succeeded": line.jobs("succeeded"),
        "failed": line.jobs("failed"),
        "canceled": line.jobs("canceled"),
        "unknown": line.jobs("unknown"),
        "amount_reported": line.amount(REPORTED),
        "amount_quoted": line.amount(QUOTED),
        "amount_uncertain": line.amount(UNCERTAIN),
    }


# -- budgets


async def budgets(call: Call) -> Reply:
    """The tenant's, with what is left of each now."""
    return whole([await _budget_view(call, row) for row in await call.context.store.budgets(call.tenant)])


async def put_budget(call: Call) -> Reply:
    """Holds from the next submit on; what the period's jobs cost so far counts."""
    provider = call.context.offers.provider(call.path["provider"])
    if call.body.unit not in (None, provider.unit):
        raise Invalid(f"{provider.title} counts in {provider.unit}: give that unit, or leave it out.", param="unit")
    budget = Budget(
        tenant=call.tenant, provider=provider.name, unit=provider.unit, amount=call.body.amount, period=call.body.period
    )
    return json_reply(await _budget_view(call, await call.context.store.put_budget(budget)))


async def delete_budget(call: Call) -> Reply:
    provider = call.context.offers.provider(call.path["provider"])
    if not await call.context.store.delete_budget(call.tenant, provider.name):
        raise Missing(f"There is no budget for {provider.name}. See GET /v1/budgets.", param="provider")
    return NO_CONTENT


async def _budget_view(call: Call, budget: Budget) -> Json:
    """As of now: a month that is over counts no more, whether or not a job has come since."""
    began_at = period_began(budget.period, call.context.clock.now())
    tallies = await call.context.store.usage(call.tenant, since=began_at, until=FOR_EVER, provider=budget.provider)
    ours = [tally for tally in tallies if tally.unit == budget.unit]
    return {
        "provider": budget.provider,
        "unit": budget.unit,
        "amount": budget.amount,
        "period": budget.period,
        "since": instant(began_at) if began_at else None,
        "reserved": _sum(tally for tally in ours if _reserved(tally)),
        "spent": _sum(tally for tally in ours if not _reserved(tally) and tally.standing != UNCERTAIN),
        "uncertain": _sum(tally for tally in ours if tally.standing == UNCERTAIN),
        "left": replace(budget, used=_sum(ours)).left,
        "created_at": instant(budget.created_at),
        "updated_at": instant(budget.updated_at),
    }


def _reserved(tally: Tally) -> bool:
    """Quoted for a job that has not ended."""
    return tally.outcome == "open" and tally.standing == QUOTED


def _sum(tallies: Iterable[Tally]) -> str:
    return total((tally.amount, tally.count) for tally in tallies)
