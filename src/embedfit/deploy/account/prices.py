"""The cost of a deployment, from a dated table of instance prices."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from embedfit.errors import InputError
from embedfit.files.textfiles import text_of

#: Hours of an average month, as AWS's calculator counts them.
HOURS_PER_MONTH = 730


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """USD per instance-hour, of one region and date."""

    instances: dict[str, float]
    region: str
    as_of: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCost:
    """USD of an endpoint while it is up; None if the table lacks the instance type.

    low, high: with the fewest and the most instances that autoscaling may run.
    """

    instance_type: str
    instance_usd_per_hour: float | None
    low_usd_per_hour: float | None
    high_usd_per_hour: float | None
    low_usd_per_month: float | None
    high_usd_per_month: float | None
    basis: str


def load_prices(path: Path | None = None) -> PriceTable:
    """The package's table, or the user's own file of the same form. Raises InputError naming the field."""
    if path is None:
        shipped = resources.files("embedfit.deploy.account").joinpath("data/prices.json")
        text, where = shipped.read_text("utf-8"), "prices.json"
    else:
        if not path.is_file():
            raise InputError(f"{path} is missing.", remedy='A price table is {"instances": {"ml.g5.xlarge": 1.41}}.')
        text, where = text_of(path), str(path)
    try:
        value = json.loads(text)
        instances = {str(name): float(price) for name, price in value["instances"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where} is not a price table: {type(error).__name__}: {error}",
            remedy='A price table is {"instances": {"ml.g5.xlarge": 1.41}, "region": "eu-west-1", "as_of": "2026-01"}.',
        ) from error
    return PriceTable(
        instances=instances,
        region=str(value.get("region", "?")),
        as_of=str(value.get("as_of", "?")),
        source=str(value.get("source", where)),
    )


def cost_of(table: PriceTable, instance_type: str, low: int, high: int, region: str) -> EndpointCost:
    """Cost of between low and high instances. Only instances are counted: data in and out is extra."""
    price = table.instances.get(instance_type)
    basis = f"on demand, {table.region}, {table.as_of}"
    if region != table.region and table.region != "?":
        basis += f" (prices in {region} differ, often by 5 to 30%; give your own with --prices FILE)"
    if price is None:
        basis = f"{instance_type} is not in the price table of {table.as_of}; give its price with --prices FILE"

    def times(factor: float) -> float | None:
        return None if price is None else round(price * factor, 4)

    return EndpointCost(
        instance_type=instance_type,
        instance_usd_per_hour=price,
        low_usd_per_hour=times(low),
        high_usd_per_hour=times(high),
        low_usd_per_month=times(low * HOURS_PER_MONTH),
        high_usd_per_month=times(high * HOURS_PER_MONTH),
        basis=basis,
    )
