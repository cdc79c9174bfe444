"""How much of its membrane each neuron keeps: what is said of all of them, of a stage, or learnt."""

from collections.abc import Sequence

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.errors import UsageError


def decays_of(settings: ConvertSettings, network: Partitioned) -> dict[str, float] | None:
    """Return every neuron's own decay by name, in order; None where all have that of the resolved settings.

    Raises:
        UsageError: a stage that the network does not have, or a value that is no decay or none to learn from.
    """
    if not settings.stage_decays and not settings.learn_decay:
        return None
    assert settings.decay is not None
    stages = _parsed(settings.stage_decays or "", [stage.name for stage in network.stages])
    if settings.learn_decay and {0.0, 1.0} & set(stages.values()):
        raise UsageError("--learn-decay starts strictly between 0 and 1; give other --stage-decays")
    sites = network.sites
    decays = dict.fromkeys(sites.neuron_names(), settings.decay)
    for stage in network.stages:
        own = (node.name for node in stage.nodes if sites.roles.get(node) is Role.NEURON)
        decays |= dict.fromkeys(own, stages.get(stage.name, settings.decay))
    return decays


def _parsed(text: str, known: Sequence[str]) -> dict[str, float]:
    decays: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name not in known:
            raise UsageError(f"--stage-decays: no stage is named '{name}'; this student has {', '.join(known)}")
        if name in decays:
            raise UsageError(f"--stage-decays names {name} twice; give it once")
        decays[name] = _decay(value, pair.strip())
    return decays


def _decay(value: str, pair: str) -> float:
    try:
        decay = float(value)
    except ValueError:
        decay = -1.0
    if not 0 <= decay <= 1:
        raise UsageError(f"--stage-decays takes STAGE=DECAY pairs with decays from 0 to 1, not '{pair}'")
    return decay
