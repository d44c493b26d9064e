"""Names, configs, and what the objects behind them refuse."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import (
    activations,
    constraints,
    initializers,
    losses,
    metrics,
    optimizers,
    registry,
    regularizers,
    schedules,
)
from mlx.utils import tree_flatten

MODULES = [activations, constraints, initializers, losses, metrics, optimizers, regularizers]


def double(x):
    return 2 * x


# module, name, part of the message
UNKNOWN = [
    (optimizers, "adm", r"unknown optimizer 'adm'\. Did you mean 'adam'\? Known: adadelta"),
    (losses, "msee", r"unknown loss 'msee'\. Did you mean 'mse'\?"),
    (metrics, "acuracy", r"unknown metric 'acuracy'\. Did you mean 'accuracy'\?"),
    (activations, "rellu", r"unknown activation 'rellu'\. Did you mean 'relu'\?"),
    (initializers, "glorot", "unknown initializer 'glorot'"),
    (regularizers, "l3", "unknown regularizer 'l3'"),
    (constraints, "zzz", r"unknown constraint 'zzz'\. Known: max_norm"),
    (schedules, "CosineDecey", r"unknown schedule 'CosineDecey'\. Did you mean 'CosineDecay'\?"),
]


@pytest.mark.parametrize("module, name, message", UNKNOWN)
def test_unknown_name(module, name, message):
    with pytest.raises(ValueError, match=message):
        module.get(name)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_name_survives_serialization(module):
    for name in module.REGISTRY.names():
        try:
            made = module.get(name)
        except TypeError:  # it cannot be made without arguments
            continue
        again = module.deserialize(module.serialize(made))
        assert module.serialize(again) == module.serialize(made)
        assert type(again) is type(made)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_none_and_wrong_kinds(module):
    assert module.get(None) is (activations.linear if module is activations else None)
    with pytest.raises(TypeError, match="expected a name, a config dict or a callable, got 3"):
        module.get(3)


def test_duplicate_name():
    made = registry.Registry("things")
    made.register(double, "twice")
    made.register(double, "twice")
    with pytest.raises(ValueError, match="things: the name 'twice' is already taken"):
        made.register(lambda x: x, "twice")
    with pytest.raises(ValueError, match="expected a new kind, got 'things' twice"):
        registry.Registry("things")


def test_custom_objects_are_known_in_their_scope_only():
    with pytest.raises(ValueError, match="unknown activation 'double'"):
        activations.get("double")
    with registry.custom_object_scope({"double": double}):
        assert activations.get("double") is double
    assert activations.deserialize("double", {"double": double}) is double
    with pytest.raises(ValueError, match="unknown activation 'double'"):
        activations.get("double")


def test_registered_objects_are_found_by_package_and_name():
    @registry.register_serializable("tests", "Scaled")
    class Scaled(initializers.Initializer):
        def __init__(self, by=2.0):
            self.by = by

        def __call__(self, shape, dtype=mx.float32):
            return mx.full(shape, self.by, dtype)

    config = initializers.serialize(Scaled(3.0))
    assert config == {"class_name": "tests>Scaled", "config": {"by": 3.0}}
    assert initializers.get(config)((2,)).tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="the name 'tests>Scaled' is already taken"):
        registry.register_serializable("tests", "Scaled")(double)


def test_nothing_is_imported_by_name():
    config = {"module": "os", "class_name": "system", "config": {"command": "true"}}
    with pytest.raises(ValueError, match="unknown optimizer 'system'"):
        optimizers.get(config)


def test_a_lambda_cannot_be_serialized():
    with pytest.raises(ValueError, match="a lambda has no name"):
        registry.serialize(lambda x: x)
    with pytest.raises(TypeError, match="expected an object with get_config"):
        registry.serialize(object())


def zeros(*shape):
    return np.zeros(shape, "float32")


REFUSED = [
    (lambda: losses.MeanSquaredError("meen"), r"MeanSquaredError: expected reduction in"),
    (lambda: losses.get("mse")(zeros(4, 2), zeros(4, 3)), r"expected labels shaped as the output"),
    (lambda: losses.get("mse")(zeros(4, 3), zeros(4, 3), zeros(3)), "sample_weight to fit the"),
    (lambda: losses.get("mse")(zeros(4, 3), zeros(4, 3), None, zeros(4, 5)), "expected mask to"),
    (
        lambda: losses.get("sparse_categorical_crossentropy")(zeros(4, 3), zeros(4, 3)),
        r"expected integer labels of shape \(4,\) for an output of shape \(4, 3\), got \(4, 3\)",
    ),
    (lambda: losses.CTC()(zeros(4, 3), zeros(4, 3)), r"ctc: expected labels \(batch, length\)"),
    (lambda: metrics.get("accuracy")(zeros(4, 2), zeros(4, 3)), "expected labels shaped as"),
    (
        lambda: metrics.SparseCategoricalAccuracy()(zeros(4, 3), zeros(4, 3)),
        "One-hot labels need a categorical metric",
    ),
    (lambda: metrics.Precision(thresholds=[2]), r"Precision: expected thresholds within \[0, 1\]"),
    (lambda: metrics.AUC(curve="LINE"), "AUC: expected curve in .*got 'LINE'"),
    (lambda: metrics.AUC(summation_method="x"), "AUC: expected summation_method in"),
    (lambda: metrics.AUC(num_thresholds=1), "AUC: expected num_thresholds above 1, got 1"),
    (lambda: metrics.AUC(thresholds=[-1]), "AUC: expected thresholds within"),
    (lambda: metrics.AUC(num_labels=3), "AUC: expected multi_label=True with num_labels"),
    (lambda: metrics.PrecisionAtRecall(2), "PrecisionAtRecall: expected recall within"),
    (lambda: metrics.PrecisionAtRecall(0.5, 0), "expected num_thresholds above 0, got 0"),
    (lambda: metrics.IoU(2, [2]), "expected target_class_ids within"),
    (lambda: metrics.MeanIoU(2)(zeros(4), zeros(4, 2)), "as many labels as predictions"),
    (lambda: metrics.F1Score("mean"), "f1_score: expected average in"),
    (lambda: metrics.F1Score(threshold=2), "f1_score: expected threshold within"),
    (lambda: metrics.FBetaScore(beta=-1), "fbeta_score: expected beta above 0, got -1"),
    (lambda: metrics.F1Score()(zeros(4, 2, 2), zeros(4, 2, 2)), r"an output \(batch, columns\)"),
    (lambda: metrics.R2Score("sum"), "expected class_aggregation None"),
    (lambda: metrics.R2Score(num_regressors=-1), "expected num_regressors of at least 0"),
    (lambda: optimizers.SGD(clipnorm=1.0, clipvalue=2.0), "at most one way of clipping, got "),
    (lambda: optimizers.SGD(momentum=2), r"SGD: expected momentum within \[0, 1\], got 2"),
    (lambda: optimizers.Adam(use_ema=True, ema_momentum=2), "expected ema_momentum within"),
    (lambda: optimizers.Adam(gradient_accumulation_steps=1), "an int of at least 2, got 1"),
    (lambda: optimizers.Adam(ema_overwrite_frequency=0), "an int of at least 1, got 0"),
    (lambda: optimizers.AdamW(weight_decay=None), "AdamW: expected weight_decay to be a number"),
    (lambda: optimizers.Lion(beta_1=0), r"Lion: expected beta_1 within \(0, 1\], got 0"),
    (lambda: optimizers.Ftrl(learning_rate_power=1), "expected learning_rate_power of at most 0"),
    (
        lambda: optimizers.Ftrl(l1_regularization_strength=-1),
        "expected l1_regularization_strength of at least 0",
    ),
    (lambda: schedules.CosineDecay(0.1, 0), "CosineDecay: expected decay_steps above 0, got 0"),
    (lambda: schedules.PiecewiseConstantDecay([1], [1.0]), "one value more than boundaries"),
    (lambda: activations.glu(mx.zeros((2, 3))), "glu: expected an even size along axis -1"),
    (lambda: initializers.Identity()((2,)), r"the shape of a matrix, got \(2,\)"),
    (lambda: initializers.Orthogonal()((2,)), r"at least two axes, got shape \(2,\)"),
    (lambda: initializers.VarianceScaling(0), "expected a scale above 0, got 0"),
    (lambda: initializers.VarianceScaling(mode="fan"), "VarianceScaling: expected mode in"),
    (lambda: initializers.VarianceScaling(distribution="x"), "expected distribution in"),
    (lambda: regularizers.L1(-1), "L1: expected l1 to be a number of at least 0, got -1"),
    (lambda: regularizers.OrthogonalRegularizer(mode="x"), "expected 'rows' or 'columns'"),
    (lambda: regularizers.OrthogonalRegularizer()(mx.zeros(3)), r"a matrix, got shape \(3,\)"),
]


@pytest.mark.parametrize("make, message", REFUSED, ids=[m.split(":")[0][:40] for _, m in REFUSED])
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_learning_rate_of_a_wrong_kind():
    with pytest.raises(TypeError, match="expected learning_rate to be a number or a schedule"):
        optimizers.SGD("fast")
    scheduled = optimizers.SGD(schedules.ExponentialDecay(0.1, 1, 0.5))
    with pytest.raises(TypeError, match="expected to keep its schedule"):
        scheduled.learning_rate = 0.5


def test_old_arguments():
    optimizer = optimizers.SGD(lr=0.5, decay=1.0)
    parameters = {"w": mx.array([0.0])}
    moved = []
    for _ in range(3):
        after = optimizer.apply_gradients({"w": mx.array([1.0])}, parameters)
        moved.append((parameters["w"] - after["w"]).item())
        parameters = after
    assert moved == pytest.approx([0.5, 0.5 / 2, 0.5 / 3])
    assert optimizer.lr.item() == 0.5
    assert optimizers.Adam(epsilon=None).epsilon == 1e-7


def test_weight_decay_leaves_out_what_is_excluded():
    optimizer = optimizers.AdamW(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(["bias"])
    ones, none = ({k: mx.full((1,), v) for k in ("weight", "bias")} for v in (1.0, 0.0))
    after = optimizer.apply_gradients(none, ones)
    assert after["bias"].item() == 1.0
    assert after["weight"].item() == pytest.approx(1 - 0.5 * 0.001)


def test_half_precision_parameters_keep_their_dtype_and_full_precision_state():
    optimizer = optimizers.Adam()
    parameters = {"w": mx.ones((3,), mx.bfloat16)}
    for _ in range(2):
        parameters = optimizer.apply_gradients({"w": mx.ones((3,), mx.bfloat16)}, parameters)
    assert parameters["w"].dtype == mx.bfloat16
    assert optimizer.state["w"]["velocity"].dtype == mx.float32


def step_of(optimizer, compiled):
    mx.random.seed(0)
    model = nn.Linear(3, 1)
    metric = metrics.MeanSquaredError()
    x, y = mx.random.normal((8, 3)), mx.random.normal((8, 1))
    state = [model.state, optimizer.state, metric.state]
    optimizer.init(model.trainable_parameters())
    traces = []

    def step(x, y):
        traces.append(1)
        gradient = nn.value_and_grad(model, lambda x, y: losses.MeanSquaredError()(y, model(x)))
        loss, gradients = gradient(x, y)
        optimizer.update(model, gradients)
        metric.update_state(y, model(x))
        return loss

    if compiled:
        step = mx.compile(step, inputs=state, outputs=state)
    values = []
    for i in range(7):
        if i == 4:
            optimizer.learning_rate = 0.3
        values.append(step(x, y).item())
    return values, [np.array(p) for _, p in tree_flatten(model.parameters())], metric, traces


def test_one_trace_serves_all_steps():
    options = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_overwrite_frequency": 2}
    results = [step_of(optimizers.SGD(0.1, 0.9, clipnorm=0.5, **options), c) for c in (False, True)]
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # kernels are fused otherwise
    assert results[1][2].result().item() == pytest.approx(results[0][2].result().item(), rel=1e-5)
    assert len(results[0][3]) == 7
    assert len(results[1][3]) == 1


def test_state_goes_through_a_file(tmp_path):
    first = optimizers.Adam(0.1, amsgrad=True)
    gradients = [{"w": mx.random.normal((3,))} for _ in range(4)]
    parameters = {"w": mx.zeros((3,))}
    for gradient in gradients[:2]:
        parameters = first.apply_gradients(gradient, parameters)
    mx.save_safetensors(str(tmp_path / "state.safetensors"), dict(tree_flatten(first.state)))
    second = optimizers.Adam(amsgrad=True)
    second.state = mlx_tree(mx.load(str(tmp_path / "state.safetensors")))
    results = [parameters, parameters]
    for gradient in gradients[2:]:
        pairs = zip((first, second), results, strict=True)
        results = [optimizer.apply_gradients(gradient, p) for optimizer, p in pairs]
    assert mx.array_equal(results[0]["w"], results[1]["w"]).item()


def mlx_tree(flat):
    from mlx.utils import tree_unflatten

    return tree_unflatten(list(flat.items()))


def test_plain_functions_become_losses_and_metrics():
    def cubed(y_true, y_pred):
        return mx.mean(mx.abs(y_true - y_pred) ** 3, axis=-1)

    y = np.array([[1.0], [2.0]], "float32")
    assert losses.get(cubed)(zeros(2, 1), y).item() == pytest.approx(4.5)
    metric = metrics.resolve(cubed, (2, 1), (2, 1))
    assert (metric.name, metric(zeros(2, 1), y).item()) == ("cubed", pytest.approx(4.5))
    assert type(losses.get(losses.mean_squared_error)) is losses.MeanSquaredError
    assert type(metrics.get(metrics.binary_accuracy)) is metrics.BinaryAccuracy
    named = metrics.resolve("mse", (2, 1), (2, 1))
    assert (type(named), named.name) == (metrics.MeanSquaredError, "mse")


@pytest.mark.parametrize(
    "y_shape, out_shape, expected",
    [
        ((8,), (8, 1), losses.BinaryCrossentropy),
        ((8, 1), (8, 4), losses.SparseCategoricalCrossentropy),
        ((8, 4), (8, 4), losses.CategoricalCrossentropy),
    ],
)
def test_crossentropy_is_chosen_by_shapes(y_shape, out_shape, expected):
    assert type(losses.resolve("crossentropy", y_shape, out_shape)) is expected
    assert type(losses.resolve("mse", y_shape, out_shape)) is losses.MeanSquaredError


def test_weights_of_samples_weigh_their_steps():
    y = mx.array(np.random.default_rng(0).normal(size=(3, 3, 2)).astype("float32"))
    weights = mx.array([1.0, 0.0, 2.0])
    value = losses.get("mse")(mx.zeros(y.shape), y, weights)
    expected = mx.sum(mx.mean(mx.square(y), axis=-1) * weights[:, None]) / 9
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
