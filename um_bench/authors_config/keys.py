"""What the authors' configurations can hold: every argument of their args.py, and who reads it.

Source:
    ZFancy/Unleashing-Mask, args.py and every place that reads it (1640ce6).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Key(NamedTuple):
    """One argument of the authors' code."""

    default: Any
    kind: str
    """`int`, `float`, `bool`, `str` or `names`."""
    use: str
    """`taken` into the suite; of the `machine`, without a part in the numbers; `dead`: nothing in
    their code reads it; or what it changes there and cannot be said in a suite."""


def _keys(use: str, **given: tuple[Any, str]) -> dict[str, Key]:
    return {name: Key(default, kind, use) for name, (default, kind) in given.items()}


_TAKEN = _keys(
    "taken",
    arch=("ResNet18", "str"),
    layers=(100, "int"),
    growth=(12, "int"),
    reduce=(0.5, "float"),
    bottleneck=(True, "bool"),
    droprate=(0.0, "float"),
    widen_factor=(4, "int"),
    bn_type=(None, "str"),
    set=("CIFAR10", "str"),
    ood_set=(["SVHN"], "names"),
    num_classes=(10, "int"),
    name=(None, "str"),
    optimizer=("sgd", "str"),
    lr=(0.1, "float"),
    lr_policy=("cosine_lr", "str"),
    epochs=(100, "int"),
    batch_size=(256, "int"),
    momentum=(0.9, "float"),
    weight_decay=(1e-4, "float"),
    nesterov=(False, "bool"),
    seed=(None, "int"),
    pretrained=(None, "str"),
    criterion=("CrossEntropyLoss", "str"),
    UM=(0.0, "float"),
    beta=(1.0, "float"),
    label_smoothing=(None, "float"),
    conv_type=(None, "str"),
    linear_type=("DenseLinear", "str"),
    prune_rate=(0.0, "float"),
    prune_type=("layer_wise", "str"),
    prune_subject=("scores", "str"),
    freeze_weights=(False, "bool"),
    msp=(False, "bool"),
    energy=(False, "bool"),
    odin=(False, "bool"),
    mahalanobis=(False, "bool"),
    final=(False, "bool"),
    evaluate=(False, "bool"),
    oe_ood_method=("oe", "str"),
    auxiliary_dataset=("ImageNet", "str"),
    ood_factor=(1.0, "float"),
    ood_batch_size=(2000, "int"),
    pool_size=(200, "int"),
    conf=(3.9, "float"),
    sigma=(20.0, "float"),
    sigma_n=(0.5, "float"),
    BUF_SIZE=(4, "int"),
    m_in=(-25.0, "float"),
    m_out=(-7.0, "float"),
    energy_beta=(0.1, "float"),
    warmup=(5, "int"),
    # Read for networks that have no depth of their own there: see the remark on WideResNet.
    depth=(40, "int"),
)

_MACHINE = _keys(
    "machine",
    data=("", "str"),
    workers=(20, "int"),
    multigpu=(None, "names"),
    save_every=(1, "int"),
    print_freq=(10, "int"),
    log_dir=(None, "str"),
    config=(None, "str"),
    tensorboard=(False, "bool"),
)

_DEAD = _keys(
    "dead",
    width=(4, "int"),
    low_data=(1.0, "float"),
    one_batch=(False, "bool"),
    alpha=(0.0, "float"),
    gamma=(0.0, "float"),
    distance=(False, "bool"),
    temperature=(1.0, "float"),
    augment=(True, "bool"),
    pretrain=(False, "bool"),
    random_subnet=(False, "bool"),
    last_layer_dense=(False, "bool"),
    prune_iterations=(1, "int"),
    retrain_epochs=(100, "int"),
    in_dataset=("CIFAR10", "str"),
    save_epoch=(10, "int"),
    a0=(6.0, "float"),
    b0=(6.0, "float"),
    lambda_prior=(0.25, "float"),
    log_name=("info.log", "str"),
    energy_model=("True", "str"),
    debug=("True", "str"),
    test_epochs=("80 90 100", "str"),
    base_dir=("output/ood_scores", "str"),
    manualSeed=(None, "int"),
    reduction=("mean", "str"),
    atypical=(False, "bool"),
    generate=(False, "bool"),
    generate_size=(1000, "int"),
)

_LEFT = {
    "trainer": Key("default", "str", "trains by another module, of which only `default` is there"),
    "resume": Key("", "str", "goes on from a checkpoint of its own"),
    "start_epoch": Key(None, "int", "starts the schedule later"),
    "warmup_length": Key(0, "int", "raises the learning rate over the first epochs"),
    "no_bn_decay": Key(False, "bool", "spares batch norm the weight decay"),
    "multistep_lr_adjust": Key(30, "int", "sets the steps of multistep_lr"),
    "multistep_lr_gamma": Key(0.1, "float", "sets the steps of multistep_lr"),
    "lr_drop_epoch": Key(0.5, "float", "sets the step of onedrop_lr"),
    "lr_one_drop": Key(0.05, "float", "sets the step of onedrop_lr"),
    "init": Key("kaiming_normal", "str", "draws the first weights otherwise"),
    "mode": Key("fan_in", "str", "draws the first weights otherwise"),
    "nonlinearity": Key("relu", "str", "draws the first weights otherwise"),
    "scale_fan": Key(False, "bool", "draws the first weights otherwise"),
    "width_mult": Key(1.0, "float", "scales networks that are not used with UM"),
    "first_layer_dense": Key(False, "bool", "names a layer without a mask, in ResNets alone"),
    "first_layer_type": Key(None, "str", "names a layer without a mask, in ResNets alone"),
    "score_init_constant": Key(None, "float", "sets the scores of SampleSubnetConv, no other"),
    "freeze_conv": Key(False, "bool", "trains only a part of the network"),
    "freeze_fc": Key(False, "bool", "trains only a part of the network"),
    "freeze_subnet": Key(False, "bool", "trains only a part of the network"),
    "ood_method": Key("none", "str", "clips or prunes features, in training too"),
    "react_threshold": Key(1.0, "float", "is the threshold of ood_method: react"),
    "ash_percentile": Key(65.0, "float", "is the percentile of ood_method: ash_p, ash_b, ash_s"),
}

KEYS: Mapping[str, Key] = {**_TAKEN, **_MACHINE, **_DEAD, **_LEFT}
"""Name -> what is known of it."""
