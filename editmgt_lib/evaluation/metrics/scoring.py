"""Score samples with metrics."""

from collections.abc import Iterator, Sequence
from math import isnan

from ...errors import InputError
from ..items import Score
from .base import Metric, Networks, NotApplicable, needed_networks
from .samples import Feature, Sample


def score(
    samples: Sequence[Sample], metrics: Sequence[Metric], networks: Networks | None = None
) -> Iterator[Score]:
    """Give every metric of every sample, in that order.

    A metric that an item does not allow is "n/a", also where there is no result: editors are
    averaged over the same items. Else a sample without a result is "failed".
    All samples are held and encoded together: a few dozen at a time suits a GPU.
    Raises InputError when a network is missing.
    """
    networks = networks or {}
    if missing := [name for name in needed_networks(metrics) if name not in networks]:
        raise InputError(
            f"the metrics need {', '.join(missing)}; name the folder of networks, or leave these "
            f"metrics out: {', '.join(_users(metrics, missing))}"
        )
    pairs = [(sample, metric) for sample in samples for metric in metrics]
    settled = [_settled(*pair) for pair in pairs]
    open_pairs = [pair for pair, known in zip(pairs, settled, strict=True) if known is None]
    _encode(open_pairs, networks)
    for (sample, metric), known in zip(pairs, settled, strict=True):
        yield known or _measured(sample, metric, networks)


def _users(metrics: Sequence[Metric], networks: Sequence[str]) -> list[str]:
    return [m.name for m in metrics if set(needed_networks([m])) & set(networks)]


def _encode(pairs: Sequence[tuple[Sample, Metric]], networks: Networks) -> None:
    """Fill `Sample.features` with all that the metrics will read, one batch per network and way."""
    wanted: dict[tuple[str, str], dict[tuple[str, Feature], Sample]] = {}
    for sample, metric in pairs:
        for feature in metric.features:
            places = wanted.setdefault((feature.network, feature.how), {})
            places[sample.id, feature] = sample
    for (network, how), places in wanted.items():
        views = [sample.view(feature.view) for (_, feature), sample in places.items()]
        rows = networks[network].encode(how, views)
        for ((_, feature), sample), row in zip(places.items(), rows, strict=True):
            sample.features[feature] = row


def _settled(sample: Sample, metric: Metric) -> Score | None:
    """The score that needs no measuring."""
    if undefined := metric.undefined(sample):
        return Score(sample.id, metric.name, None, "n/a", undefined)
    if sample.failure:
        return Score(sample.id, metric.name, None, "failed", sample.failure)
    return None


def _measured(sample: Sample, metric: Metric, networks: Networks) -> Score:
    try:
        value = float(metric.measure(sample, networks))
    except NotApplicable as error:
        return Score(sample.id, metric.name, None, "n/a", str(error))
    if isnan(value):
        return Score(sample.id, metric.name, None, "failed", "the value is not a number")
    return Score(sample.id, metric.name, value)
