"""Optimizers and the courses' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt

W = np.linspace(-0.4, 0.6, 20).reshape(4, 5)
DW = np.linspace(-0.6, 0.4, 20).reshape(4, 5)
V = np.linspace(0.6, 0.9, 20).reshape(4, 5)

MOM_W = """.1406 .20738947 .27417895 .34096842 .40775789 .47454737 .54133684 .60812632 .67491579
.74170526 .80849474 .87528421 .94207368 1.00886316 1.07565263 1.14244211 1.20923158 1.27602105
1.34281053 1.4096"""
MOM_V = """.5406 .55475789 .56891579 .58307368 .59723158 .61138947 .62554737 .63970526 .65386316
.66802105 .68217895 .69633684 .71049474 .72465263 .73881053 .75296842 .76712632 .78128421 .79544211
.8096"""
NES_W = """.08714 .15246105 .21778211 .28310316 .34842421 .41374526 .47906632 .54438737 .60970842
.67502947 .74035053 .80567158 .87099263 .93631368 1.00163474 1.06695579 1.13227684 1.19759789
1.26291895 1.32824"""
RMS_W = """-.39223849 -.34037513 -.28849239 -.23659121 -.18467247 -.132737 -.08078555 -.02881884
.02316247 .07515774 .12716641 .17918792 .23122175 .28326742 .33532447 .38739248 .43947102 .49155973
.54365823 .59576619"""
RMS_CACHE = """.5976 .6126277 .6277108 .64284931 .65804321 .67329252 .68859723 .70395734 .71937285
.73484377 .75037008 .7659518 .78158892 .79728144 .81302936 .82883269 .84469141 .86060554 .87657507
.8926"""
ADAM_W = """-.40094747 -.34836187 -.29577703 -.24319299 -.19060977 -.1380274 -.08544591 -.03286534
.01971428 .0722929 .1248705 .17744702 .23002243 .28259667 .33516969 .38774145 .44031188 .49288093
.54544852 .59801459"""
ADAM_NU = """.69966 .68908382 .67851319 .66794809 .65738853 .64683452 .63628604 .6257431 .61520571
.60467385 .59414753 .58362676 .57311152 .56260183 .55209767 .54159906 .53110598 .52061845 .51013645
.49966"""
ADAM_MU = """.48 .49947368 .51894737 .53842105 .55789474 .57736842 .59684211 .61631579 .63578947
.65526316 .67473684 .69421053 .71368421 .73315789 .75263158 .77210526 .79157895 .81105263 .83052632
.85"""


def rel_error(x, literal):
    """The courses' measure, to the four digits that they print."""
    y = np.array(literal.split(), np.float64).reshape(4, 5)
    x = np.asarray(x)
    return f"{np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))):.3e}"


def course_step(optimizer, **moments):
    state = optimizer.init(jnp.asarray(W))._replace(
        **{k: jnp.asarray(v, jnp.int32 if k == "count" else None) for k, v in moments.items()}
    )
    updates, state = optimizer.update(jnp.asarray(DW), state, jnp.asarray(W))
    return W + updates, state


@pytest.mark.courses("0-10", "3-18")
def test_course_sgd():
    w, dw = jnp.asarray(W), jnp.asarray(DW)
    optimizer = opt.sgd(1e-2)
    updates, _ = optimizer.update(dw, optimizer.init(w))
    np.testing.assert_array_equal(optax.apply_updates(w, updates), W - 1e-2 * DW)
    np.testing.assert_array_equal(w, W)  # the course's function writes into w


@pytest.mark.courses("0-11", "1-26", "2-6", "3-22")
def test_course_momentum():
    next_w, state = course_step(opt.momentum(1e-3, 0.9, "scaled"), trace=V)
    assert rel_error(next_w, MOM_W) == "8.882e-09"
    assert rel_error(state.trace, MOM_V) == "4.269e-09"


@pytest.mark.courses("0-12", "2-7")
def test_course_nesterov():
    next_w, state = course_step(opt.nesterov(1e-3, 0.9, "scaled"), trace=V)
    assert rel_error(next_w, NES_W) == "1.088e-08"
    assert rel_error(state.trace, MOM_V) == "4.269e-09"


@pytest.mark.courses("0-15", "1-29", "2-9")
@pytest.mark.parametrize(
    ("eps_in_sqrt", "printed"),
    [
        pytest.param(False, "9.525e-08", id="rows-0-15-and-1-29-outside"),
        pytest.param(True, "9.503e-08", id="row-2-9-inside"),
    ],
)
def test_course_rmsprop(eps_in_sqrt, printed):
    next_w, state = course_step(opt.rmsprop(1e-2, 0.99, eps_in_sqrt=eps_in_sqrt), nu=V)
    assert rel_error(next_w, RMS_W) == printed
    assert rel_error(state.nu, RMS_CACHE) == "2.648e-09"


@pytest.mark.courses("4-24")
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_course_rmsprop_formula(decay):
    next_w, state = course_step(opt.rmsprop(1e-2, decay), nu=V)
    cache = decay * V + (1 - decay) * DW**2
    np.testing.assert_allclose(state.nu, cache, rtol=1e-15)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW / np.sqrt(cache + 1e-8), rtol=1e-14)


@pytest.mark.courses("0-16", "1-30", "2-10")
def test_course_adam():
    """The courses' t = 5 is incremented before use: it is our count."""
    next_w, state = course_step(
        opt.adam(1e-2), mu=V, nu=np.linspace(0.7, 0.5, 20).reshape(4, 5), count=5
    )
    assert rel_error(next_w, ADAM_W) == "1.140e-07"
    assert rel_error(state.nu, ADAM_NU) == "4.208e-09"
    assert rel_error(state.mu, ADAM_MU) == "4.215e-09"
    assert state.count == 6


@pytest.mark.courses("1-33")
def test_course_adagrad():
    optimizer = opt.adagrad(1e-2, 0.0, 1e-8, eps_in_sqrt=False)
    next_w, state = course_step(optimizer, sum_of_squares=V)
    np.testing.assert_allclose(state.sum_of_squares, V + DW**2, rtol=1e-15)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW / (np.sqrt(V + DW**2) + 1e-8), rtol=1e-14)


@pytest.mark.courses("1-33")
def test_adagrad_sums_after_100_gradients_of_10():
    """AdaGrad's cache is 10 000 (the course says 1000); Adam's second moment rests at 100."""
    ten = jnp.array(10.0)
    adagrad, adam = opt.adagrad(1e-2, 0.0), opt.adam(1e-2)

    def step(states, _):
        return tuple(
            o.update(ten, s)[1] for o, s in zip((adagrad, adam), states, strict=True)
        ), None

    start = adagrad.init(ten), adam.init(ten)._replace(nu=jnp.array(100.0))
    (sums, moments), _ = jax.lax.scan(step, start, length=100)
    assert sums.sum_of_squares == 10_000
    np.testing.assert_allclose(moments.nu, 100, rtol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_velocities_differ_once_the_rate_changes(nesterov, rng):
    """Both against NumPy: the courses' form scales the gradient, optax's the velocity."""
    rates, grads = [0.1, 0.1, 0.02, 0.02], rng.standard_normal((4, 3))
    make = opt.nesterov if nesterov else opt.momentum
    ends = {}
    for velocity in ("scaled", "raw"):
        w, v = np.zeros(3), np.zeros(3)
        optimizer = make(lambda t: jnp.asarray(rates)[t], 0.9, velocity)
        ours, state = jnp.zeros(3), optimizer.init(jnp.zeros(3))
        same = []
        for rate, g in zip(rates, grads, strict=True):
            before = v
            if velocity == "scaled":
                v = 0.9 * v - rate * g
                w = w - 0.9 * before + 1.9 * v if nesterov else w + v
            else:
                v = 0.9 * v + g
                w = w - rate * (g + 0.9 * v if nesterov else v)
            updates, state = optimizer.update(jnp.asarray(g), state)
            ours = optax.apply_updates(ours, updates)
            np.testing.assert_allclose(ours, w, rtol=1e-13, atol=1e-15)
            same.append(w)
        ends[velocity] = same
    np.testing.assert_allclose(ends["scaled"][1], ends["raw"][1], rtol=1e-13)
    assert np.abs(ends["scaled"][3] - ends["raw"][3]).max() > 0.01
