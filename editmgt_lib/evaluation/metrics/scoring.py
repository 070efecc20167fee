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
    reasons = [metric.undefined(sample) for sample, metric in pairs]
    defined = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
    _encode(defined, networks)
    for (sample, metric), reason in zip(pairs, reasons, strict=True):
        yield _score(sample, metric, networks, reason or _too_long(sample, metric))


def _users(metrics: Sequence[Metric], networks: Sequence[str]) -> list[str]:
    return [m.name for m in metrics if set(needed_networks([m])) & set(networks)]


def _encode(pairs: Sequence[tuple[Sample, Metric]], networks: Networks) -> None:
    """Fill `Sample.features` with all that the metrics will read, one batch per network and way.

    Of failed samples only the captions.
    """
    wanted: dict[tuple[str, str], dict[tuple[str, Feature], Sample]] = {}
    for sample, metric in pairs:
        for feature in metric.features:
            if feature.is_caption or not sample.failure:
                places = wanted.setdefault((feature.network, feature.how), {})
                places[sample.id, feature] = sample
    for (network, how), places in wanted.items():
        views = [sample.view(feature.view) for (_, feature), sample in places.items()]
        rows = networks[network].encode(how, views)
        for ((_, feature), sample), row in zip(places.items(), rows, strict=True):
            sample.features[feature] = row


def _too_long(sample: Sample, metric: Metric) -> str | None:
    for feature in metric.features:
        if feature.is_caption and sample.features.get(feature) is None:
            kind = feature.view.removeprefix("caption:")
            return f"the {kind} caption is too long for {feature.network}"
    return None


def _score(sample: Sample, metric: Metric, networks: Networks, undefined: str | None) -> Score:
    if undefined:
        return Score(sample.id, metric.name, None, "n/a", undefined)
    if sample.failure:
        return Score(sample.id, metric.name, None, "failed", sample.failure)
    try:
        value = float(metric.measure(sample, networks))
    except NotApplicable as error:
        return Score(sample.id, metric.name, None, "n/a", str(error))
    if isnan(value):
        return Score(sample.id, metric.name, None, "failed", "the value is not a number")
    return Score(sample.id, metric.name, value)
