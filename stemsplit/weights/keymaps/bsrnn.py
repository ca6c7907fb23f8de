r"""BandSplitRNN's published names, in bare state dicts and in Lightning's checkpoints.

A checkpoint has the same names under `state_dict.model.`, and the averaged weights as a tuple under
the optimizer's state, without names: in the order of the network's parameters, which is that of the
state dict too, for the network keeps nothing else there. The original separates with the raw ones.

    bandsplit.{layernorms, fcs}.k
    bandsequence.bsrnn.i.{0 time, 1 bands}.{groupnorm, rnn, fc}
    bandsequence.dptransformers.i.{0, 1}.{groupnorm, mha, recurrent, linear}    with attention
    maskest.{layernorms.k, mlp.k.mlp.{0, 2, 3.linear}}
"""

from __future__ import annotations

from collections.abc import Mapping

from stemsplit.errors import CheckpointError
from stemsplit.weights.keymaps.keymap import Array, Keymap, Row

_BOTH = r"(weight|bias)"
_RECURRENT = r"((?:weight|bias)_[ih]h_l0(?:_reverse)?)"
_ATTENTION = r"(in_proj_(?:weight|bias)|out_proj\.(?:weight|bias))"
_RAW = "state_dict.model."
_AVERAGED = "optimizer_states.0.ema."
# The settings that Lightning puts beside the weights: omegaconf's, of plain values.
_INERT = frozenset(
    {
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.nodes.AnyNode",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "collections.defaultdict",
        "typing.Any",
        "__builtin__.dict",
        "__builtin__.list",
        "__builtin__.long",
    }
)
_LIGHTNING = (
    # The STFT's windows, which are not trained.
    r"state_dict\.(?:inverse_)?featurizer\.window",
    r"callbacks\..*",
    r"loops\..*",
    r"lr_schedulers\..*",
    r"hyper_parameters\..*",
)
# The attention module has this norm, computes it and does not use it.
_UNUSED = r"bandsequence\.dptransformers\.\d+\.[01]\.groupnorm\.(?:weight|bias)"


def build_keymap(stem: str) -> Keymap:
    """Return the table for `.pt` files and for the raw weights of `.ckpt` files: one stem each.

    Args:
        stem: The file's.
    """
    prefix = r"(?:state_dict\.model\.)?"
    return Keymap(
        rows=_map_net(prefix, stem),
        drop=(*_LIGHTNING, r"optimizer_states\..*", prefix + _UNUSED),
        inert=_INERT,
    )


def build_averaged_keymap(stem: str) -> Keymap:
    """Return the table for the averaged weights of `.ckpt` files: one stem each.

    Args:
        stem: The file's.
    """
    prefix = r"optimizer_states\.0\.ema\."
    return Keymap(
        rows=_map_net(prefix, stem),
        drop=(
            *_LIGHTNING,
            r"state_dict\.model\..*",
            r"optimizer_states\.0\.opt\..*",
            prefix + _UNUSED,
        ),
        inert=_INERT,
        label=_label_averaged,
    )


def _map_net(prefix: str, stem: str) -> tuple[Row, ...]:
    net = f"core.nets.{stem}"
    rows = [
        Row(rf"{prefix}bandsplit\.layernorms\.(\d+)\.{_BOTH}", rf"{net}.split.\1.norm.\2"),
        Row(rf"{prefix}bandsplit\.fcs\.(\d+)\.{_BOTH}", rf"{net}.split.\1.fc.\2"),
        Row(rf"{prefix}maskest\.layernorms\.(\d+)\.{_BOTH}", rf"{net}.masks.\1.norm.\2"),
    ]
    for published, here in (("0", "fc1"), ("2", "fc2"), (r"3\.linear", "gate")):
        source = rf"{prefix}maskest\.mlp\.(\d+)\.mlp\.{published}\.{_BOTH}"
        rows.append(Row(source, rf"{net}.masks.\1.{here}.\2"))
    for number, way in enumerate(("time", "bands")):
        target = rf"{net}.sequence.\1.{way}"
        recurrent = rf"{prefix}bandsequence\.bsrnn\.(\d+)\.{number}"
        attentive = rf"{prefix}bandsequence\.dptransformers\.(\d+)\.{number}"
        rows += [
            Row(rf"{recurrent}\.groupnorm\.{_BOTH}", rf"{target}.norm.\2"),
            Row(rf"{recurrent}\.rnn\.{_RECURRENT}", rf"{target}.rnn.\2"),
            Row(rf"{recurrent}\.fc\.{_BOTH}", rf"{target}.fc.\2"),
            Row(rf"{attentive}\.mha\.{_ATTENTION}", rf"{target}.attention.\2"),
            Row(rf"{attentive}\.recurrent\.{_RECURRENT}", rf"{target}.rnn.\2"),
            Row(rf"{attentive}\.linear\.{_BOTH}", rf"{target}.fc.\2"),
        ]
    return tuple(rows)


def _label_averaged(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return a checkpoint's tensors with the averaged ones named after the raw ones.

    Raises:
        CheckpointError: There is not one averaged tensor for each raw one.
    """
    names = [name.removeprefix(_RAW) for name in arrays if name.startswith(_RAW)]
    numbered = [name for name in arrays if name.startswith(_AVERAGED)]
    if numbered != [f"{_AVERAGED}{place}" for place in range(len(names))]:
        raise CheckpointError(
            f"{len(numbered)} averaged tensors ({_AVERAGED}...) for {len(names)} of {_RAW}...",
            help='read the raw weights: keymap = "bsrnn".',
        )
    renamed = {f"{_AVERAGED}{place}": f"{_AVERAGED}{name}" for place, name in enumerate(names)}
    return {renamed.get(name, name): array for name, array in arrays.items()}
