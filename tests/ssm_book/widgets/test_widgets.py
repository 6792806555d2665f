"""Figures that compute in the page: their arithmetic, their HTML, and that each chapter has one."""

import ast
import json
import pathlib
import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from numpy.testing import assert_allclose
from py_mini_racer import MiniRacer

pytest.importorskip("matplotlib")
torch = pytest.importorskip("torch")

from ssm_book import data, widgets
from ssm_book.widgets import CATALOGUE, widget
from ssm_book.widgets.catalogue import Choice, Marks, Slider
from ssm_core import hippo, rnn
from ssm_core.discretize import discretize
from ssm_core.lti import ContinuousSSM
from ssm_core.mamba import MambaConfig, MambaLM
from ssm_core.s4 import s4d_modes
from ssm_core.scan import selective_scan_ref
from tools.contents import chapters

ROOT = pathlib.Path(__file__).parents[3]
FOLDER = ROOT / "ssm_book" / "widgets"
CHAPTERS = [f"book/{name}" for name in chapters() if not name.endswith("-deeper")]


class Engine:
    """A JavaScript engine without a page: V8, with some files of ssm_book/widgets in it."""

    def __init__(self, *files):
        self._context = MiniRacer()
        for file in files:
            self._context.eval((FOLDER / file).read_text("utf-8"))

    def run(self, code):
        text = self._context.eval(f"JSON.stringify(({code}))")
        return json.loads(text, parse_int=float)  # 1e20 is written without a point

    def __call__(self, function, *arguments):
        return self.run(f"{function}(...{json.dumps(arguments, default=np.ndarray.tolist)})")


def engine_for(name, *more):
    return Engine(*(f"arithmetic/{part}.js" for part in CATALOGUE[name].arithmetic), *more)


def as_complex(pairs):
    return np.array(pairs) @ [1, 1j]


def as_pairs(z):
    return np.stack([np.real(z), np.imag(z)], axis=-1)


# --- arithmetic, against the library in float64 -------------------------------------------------


def test_linear_algebra():
    js, rng = engine_for("duality"), np.random.default_rng(0)
    A, B = rng.standard_normal((6, 6)), rng.standard_normal(6)
    assert_allclose(js("solve", A, B[:, None]), np.linalg.solve(A, B)[:, None], rtol=1e-12)
    for dt in (1e-6, 0.3, 4.0):
        for method, function in (("zoh", "zeroOrderHold"), ("bilinear", "bilinear")):
            Ab, Bb, _, _ = discretize(A, B[:, None], [[0.0] * 6], [[0.0]], dt, method)
            got_A, got_B = js(function, A, B, dt)
            assert_allclose(got_A, Ab, rtol=0, atol=1e-12 * np.abs(Ab).max())
            assert_allclose(got_B, Bb[:, 0], rtol=0, atol=1e-12 * np.abs(Bb).max())


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("matrix", ["random", "orthogonal"])
def test_rnn(activation, matrix):
    js, numbers = engine_for("rnn"), CATALOGUE["rnn"].data()
    U, u = np.array(numbers["U"]), 0.5 * np.array(numbers["noise"])
    for gain in (0.5, 1.0, 1.7):
        W = gain * np.array(numbers[matrix])
        h = rnn.rnn(u, W, U[:, None], np.zeros(len(U)), activation)
        got = js("rnn", u, W, U, activation)
        # A chaotic network doubles a rounding error every few steps.
        assert_allclose(got[:20], h[:20], rtol=1e-9, atol=1e-12)
        expected = rnn.jacobian_norms(W, np.array(got), activation)
        assert_allclose(js("jacobianNorms", W, got, activation), expected, rtol=1e-8)


def test_continuous():
    js = engine_for("continuous")
    for k, b, m in ((40, 5, 1), (40, 0, 1), (36, 12, 1), (10, 20, 0.5), (20, -1, 2)):
        spring = ContinuousSSM([[0, 1], [-k / m, -b / m]], [[0], [1 / m]], [[1, 0]], [[0]])
        poles = as_complex(js("springPoles", k, b, m))
        assert_allclose(np.sort_complex(poles), np.sort_complex(spring.poles), rtol=0, atol=1e-6)
        assert_allclose([poles.sum(), poles.prod()], [-b / m, k / m], rtol=1e-12)
        t = 0.01 * np.arange(401)
        expected = spring.simulate(np.ones(401), t)
        assert_allclose(js("springStepResponse", k, b, m, 0.01, 401), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", ["euler", "backward_euler", "bilinear", "zoh"])
def test_discretization(rule):
    js = engine_for("discretization")
    for value in (-2.5 + 5.8j, -8.0, 0.5 + 1j):
        for dt in (0.01, 0.1, 1.0):
            Ab, Bb, _, _ = discretize([[value]], [[-value]], [[1]], [[0]], dt, rule)
            R = as_complex(js("stabilityFunction", rule, as_pairs(dt * value)))
            assert_allclose(R, Ab.item(), rtol=1e-12)
            x = [0j]
            for _ in range(20):
                x.append(Ab.item() * x[-1] + Bb.item())
            got = js("modeStepResponse", rule, as_pairs(value), dt, 20)
            assert_allclose(got, np.real(x), rtol=1e-9, atol=1e-12)
    truth = 1 - np.exp((-2.5 + 5.8j) * 0.7).real
    assert_allclose(js("modeTruth", [-2.5, 5.8], 0.7), truth, rtol=1e-14)
    limit = js("eulerLimit", [-2.5, 5.8])
    size = np.abs(1 + limit * np.array([0.999, 1.001]) * (-2.5 + 5.8j))
    assert size[0] < 1 < size[1]


@pytest.mark.parametrize("name", ["average", "spring", "resonance", "delay"])
def test_duality(name):
    js, u = engine_for("duality"), np.random.default_rng(1).standard_normal(80)
    parts = js("system", name)
    system = ContinuousSSM(parts["A"], np.array(parts["B"])[:, None], [parts["C"]], [[0]])
    for dt in (0.25, 1.0, 4.0):
        sampled = system.discretize(dt, "zoh")
        Ab, Bb = js("zeroOrderHold", parts["A"], parts["B"], dt)
        K = js("kernel", Ab, Bb, parts["C"], 80)
        assert_allclose(K, sampled.kernel(80)[:, 0, 0], rtol=0, atol=1e-12)
        expected = sampled.recurrence(u)[0]
        assert_allclose(js("recurrence", Ab, Bb, parts["C"], u), expected, rtol=0, atol=1e-12)
        assert_allclose(js("convolve", K, u), expected, rtol=0, atol=1e-12)
    if name == "delay":
        A, B = hippo.transition("legt", 12, theta=24.0)
        assert_allclose(system.A, A, rtol=1e-12)
        assert_allclose(system.B, B, rtol=1e-12)


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fading"])
@pytest.mark.parametrize("N", [1, 2, 24])
def test_hippo(measure, N):
    js, u, theta, every = engine_for("hippo"), data.rough_signal(600, 3, seed=1), 150.0, 100
    if measure == "legs":
        states = hippo.project(u, "legs", N, 1.0, every=every)
    elif measure == "fading":
        A, B = hippo.transition("legs", N)
        system = ContinuousSSM(A / theta, B / theta, np.eye(N), np.zeros((N, 1)))
        states = system.discretize(1.0, "bilinear").recurrence(u)[1][every - 1 :: every]
    else:
        clock = {"theta": theta} if measure == "legt" else {}
        dt = 1.0 if measure == "legt" else 1 / theta
        states = hippo.project(u, measure, N, dt, every=every, **clock)
    ages = [0.5, 20.5, 140.5]
    got = js.run(
        f"project({u.tolist()}, {measure!r}, {N}, {every}, {theta}).map((x) => Array.from(x))"
    )
    assert_allclose(got, states, rtol=0, atol=1e-10)

    past = {  # fractions of the past, as reconstruct wants them
        "legs": lambda age: hippo.reconstruct(states[3], "legs", 1 - age / 400),
        "legt": lambda age: hippo.reconstruct(states[3], "legt", 1 - age / theta),
        "lagt": lambda age: hippo.reconstruct(states[3], "lagt", 1 - age / 400, theta=400 / theta),
        "fading": lambda age: hippo.reconstruct(states[3], "legs", np.exp(-age / theta)),
    }[measure]
    recalled = [js("recall", states[3], measure, age, 400, theta) for age in ages]
    assert_allclose(recalled, [past(age) for age in ages], rtol=0, atol=1e-11)


def test_memory():
    js, prices, tau, W = engine_for("memory"), data.oil_prices()[1][:3000], 50.0, 120
    alpha = js("emaWeight", tau)
    daily = ContinuousSSM([[-1 / tau]], [[1 / tau]], [[1]], [[0]]).discretize(1.0, "zoh")
    assert_allclose(alpha, daily.B.item(), rtol=1e-14)
    expected = daily.recurrence(prices, x0=prices[:1])[0]
    assert_allclose(js("ema", prices, tau), expected, rtol=1e-12)

    lost, weights = js("lostWeight", tau, W), (1 - alpha) ** np.arange(W)
    assert_allclose(lost, (1 - alpha) ** W, rtol=1e-12)
    guess = js("windowedEma", prices, tau, W)
    for k in (500, 2999):
        expected = np.average(prices[k - W + 1 : k + 1][::-1], weights=weights)
        assert_allclose(guess[k], expected, rtol=1e-12)
    needed = js("windowNeeded", tau, 10, 145, 0.01)
    assert (
        js("windowError", tau, needed, 10, 145)
        <= 0.01
        < js("windowError", tau, needed - 1, 10, 145)
    )


@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real"])
def test_s4(init):
    js, legs = engine_for("s4"), CATALOGUE["s4"].data()["legs"]
    for N in (8, 64):
        modes = s4d_modes(init, N)
        got = js("s4dModes", init, N, legs[str(N)])
        assert_allclose(as_complex(got), modes, rtol=1e-6 if init == "legs" else 1e-13)
        for t in (0.0, 0.3, 2.0):
            assert_allclose(
                [js("modeAt", pair, t) for pair in as_pairs(modes)],
                np.exp(modes * t).real,
                rtol=0,
                atol=1e-12,
            )
        assert js("aliased", as_pairs(modes), 0.05) == np.sum(np.imag(modes) > np.pi / 0.05)


@pytest.mark.parametrize("rule", ["mamba", "zoh"])
def test_mamba(rule):
    js, rng = engine_for("mamba"), np.random.default_rng(0)
    u, delta = rng.standard_normal(16), 10 ** rng.uniform(-3, 0.7, 16)
    fed = u if rule == "mamba" else u * -np.expm1(-delta) / delta  # the scan has B = delta inside
    one = torch.ones(1, 1, dtype=torch.float64)
    fed, steps = (torch.from_numpy(x)[None, None] for x in (fed, delta))
    states = selective_scan_ref(fed, steps, -one, one, one)[0, 0].numpy()
    assert_allclose(js("selectiveStates", u, delta, rule), states, rtol=0, atol=1e-14)
    weights = js("selectiveWeights", delta, rule)
    assert_allclose(np.dot(weights, u), states[-1], rtol=0, atol=1e-14)


def test_selective_scan():
    js, rng = engine_for("selective_scan"), np.random.default_rng(0)
    for L in (1, 2, 8, 64):
        steps = np.stack([np.exp(-rng.uniform(0, 16, L)), rng.standard_normal(L)], axis=1)
        fed, decay = (torch.from_numpy(np.array(x))[None, None] for x in (steps[:, 1], steps[:, 0]))
        delta = -torch.log(decay)  # with A = -1: exp(-delta) is a, and delta u B is to be b
        one = torch.ones(1, 1, dtype=torch.float64)
        states = selective_scan_ref(fed / delta, delta, -one, one, one)[0, 0].numpy()
        assert_allclose(js("blelloch", steps), states, rtol=0, atol=1e-13)
    levels = js("upSweep", steps)
    assert [len(level) for level in levels] == [64, 32, 16, 8, 4, 2, 1]
    assert [len(level) for level in js("downSweep", levels)] == [1, 2, 4, 8, 16, 32, 64]


def test_ssd():
    js, rng = engine_for("ssd"), np.random.default_rng(0)
    for L, Q, n, p in ((64, 16, 8, 4), (64, 1, 4, 64), (64, 64, 16, 8)):
        blocks = js("ssdBlocks", L, Q)
        chunks, steps = L // Q, np.arange(L) // Q
        assert len(blocks["diagonal"]) == chunks
        assert len(blocks["below"]) == chunks * (chunks - 1) // 2
        owner = np.zeros((L, L))
        for row, column, size in (*blocks["diagonal"], *blocks["below"]):
            row, column, size = int(row), int(column), int(size)
            owner[row : row + size, column : column + size] += 1
        assert_allclose(owner, steps[:, None] >= steps)  # each block once

        B, C, v = (rng.standard_normal((chunks, Q, k)) for k in (n, n, p))
        state = np.zeros((chunks, n, p))
        products = {  # the lengths of the axes of each product
            "inside": chunks * (C @ B.mT).size * n // chunks
            + chunks * Q * (C[0] @ B[0].T @ v[0]).size,
            "states": (B.mT @ v).size * Q,
            "passing": state.size,
            "outputs": (C @ state).size * n,
        }
        counted = js("ssdMultiplications", L, Q, n, p)
        assert counted.pop("waiting") == chunks
        assert_allclose([counted[key] * L for key in products], [*products.values()])


def test_training():
    from benchmarks.generation import Transformer  # the same sizes as those that were measured

    js, brought = engine_for("training"), CATALOGUE["training"].data()
    vocabulary = brought["vocabulary"]
    for d, layers in [
        (32, 4),
        *((size["d"], size["layers"]) for size in brought["sizes"].values()),
    ]:
        mamba = MambaLM(MambaConfig(d, layers, vocabulary), device="meta", dtype=torch.bfloat16)
        transformer = Transformer(
            d, layers // 2, 2, vocabulary, 300, device="meta", dtype=torch.bfloat16
        )
        numbers = [sum(p.numel() for p in model.parameters()) for model in (mamba, transformer)]
        got = (
            js("mambaNumbers", d, layers, vocabulary),
            js("transformerNumbers", d, layers // 2, vocabulary),
        )
        assert list(got) == numbers
        for texts in (1, 3):
            state = sum(
                part.nbytes
                for pair in mamba.allocate_inference_cache(texts, 0).values()
                for part in pair
            )
            cache = transformer.allocate_cache(texts, 300).nbytes
            assert texts * js("stateBytes", d, layers) == state
            assert texts * js("cacheBytes", d, layers // 2, 300) == cache
            model = {"d": d, "layers": layers, "vocabulary": vocabulary}
            moved = [js("bytesMoved", kind, model, texts, 300) for kind in ("mamba", "transformer")]
            assert moved == [2 * numbers[0] + 2 * state, 2 * numbers[1] + cache]
            tokens = js("crossing", model, texts)
            assert texts * js("cacheBytes", d, layers // 2, tokens) == pytest.approx(2 * numbers[1])


# --- what the chapters say of them --------------------------------------------------------------


def test_the_chapters_promise_what_the_figures_show():
    js, numbers = engine_for("rnn"), CATALOGUE["rnn"].data()
    W, U, noise = (np.array(numbers[name]) for name in ("random", "U", "noise"))

    def left(strength):
        states = js("rnn", np.r_[1, strength * noise[1:]], 1.5 * W, U, "tanh")
        return js("jacobianNorms", 1.5 * W, states, "tanh")[-1]

    assert left(0) > 1 and left(2) < 1e-15

    u = data.smooth_signal(10_000, seed=1)

    def error(measure, N, theta=1000.0):
        js = engine_for("hippo")
        ages = np.arange(0.5, 10_000, 50)
        code = (
            f"((u) => {{ const x = Array.from(project(u, '{measure}', {N}, u.length, {theta})[0]);"
            f" return {ages.tolist()}.map((age) => recall(x, '{measure}', age, u.length, {theta})) }})"
        )
        return np.sqrt(np.mean((js(code, u) - u[::-1][::50]) ** 2))

    assert error("legs", 16) > 0.3 * u.std() and error("legs", 24) < 0.05 * u.std()
    assert error("lagt", 32, 140) < min(error("lagt", 32, 79), error("lagt", 32, 250))

    js, brought = engine_for("training"), CATALOGUE["training"].data()

    def part(size, texts):  # from how many tokens on a Transformer moves half as much again
        model = {**brought["sizes"][size], "vocabulary": brought["vocabulary"]}
        lengths = np.geomspace(16, 1e6, 200)
        return next(
            L
            for L in lengths
            if js("bytesMoved", "transformer", model, texts, L)
            > 1.5 * js("bytesMoved", "mamba", model, texts, L)
        )

    assert part("130", 1) > 2048 and part("130", 128) < 512
    assert part("2800", 1) > part("130", 1) and part("2800", 128) > part("130", 128)


# --- pages --------------------------------------------------------------------------------------


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def named(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def test_every_figure_has_its_file():
    assert {path.stem for path in (FOLDER / "draw").glob("*.js")} == set(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_figure_needs_no_network_and_is_light(name):
    page = widget(name)._repr_html_()
    own = page.replace("/*! https://github.com/leeoniya/uPlot (v1.6.32) */", "")
    assert not re.search(
        r"https?:|@import|url\(|\b(src|href)=|\bfetch\(|\bimport\(|XMLHttpRequest", own
    )
    assert len(page.encode()) < 150_000
    assert page.count("</script>") == page.count("<script>") == 1
    if CATALOGUE[name].charts:
        assert "Copyright (c) 2022 Leon Sorokin" in page


@pytest.mark.parametrize("name", CATALOGUE)
def test_figure_has_names_for_those_who_cannot_see_it(name):
    page = widget(name)._repr_html_()
    elements = Elements(page)
    (figure,) = elements.named("figure")
    assert figure["data-widget"] == name and figure["aria-label"] == CATALOGUE[name].title
    controls = [a["data-control"] for _, a in elements.found if "data-control" in a]
    assert controls == [control.name for control in CATALOGUE[name].controls]
    assert {a["name"] for a in elements.named("input", "select")} == set(controls)
    for words in re.findall(r'<label class="control"[^>]*><span>(.*?)</span>', page):
        assert words.strip()
    assert any(a.get("role") == "status" for a in elements.named("p"))
    assert elements.named("noscript")
    assert "object at 0x" not in repr(widget(name)) and len(repr(widget(name))) > 60


def test_figure_starts_where_it_is_told():
    page = widget("discretization", rule="zoh", dt=0.5)._repr_html_()
    assert '<option value="zoh" selected>' in page and page.count(" selected>") == 1
    at = float(re.search(r'name="dt"[^>]* value="([^"]+)"', page).group(1))
    assert_allclose(10**at, 0.5, rtol=0.01)
    again = widget("discretization", rule="zoh", dt=0.5)._repr_html_()
    assert page == again != widget("discretization")._repr_html_()
    marked = widget("mamba", wanted=(1, 15))._repr_html_()
    assert re.findall(r'value="(\d+)" autocomplete="off" checked', marked) == ["1", "15"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_a_figure_suggests_can_be_set(name):
    presets = CATALOGUE[name].presets
    for words, values in presets.items():
        assert widget(name, **values)._repr_html_() != widget(name)._repr_html_(), words
    page = widget(name)._repr_html_()
    buttons = Elements(page).named("button")
    assert [json.loads(a["data-preset"]) for a in buttons if "data-preset" in a] == [
        {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        for values in presets.values()
    ]
    assert sum(a.get("type") == "reset" for a in buttons) == 1
    assert all(a["type"] in ("button", "reset") for a in buttons)


def test_a_slider_that_doubles_hits_the_powers_of_two():
    js = engine_for("training", "page.js")
    slider = Slider("texts", "Texts", 1, 256, 1, step="double").html(64)
    (field,) = Elements(slider).named("input")
    assert (field["min"], field["max"], field["value"], field["step"]) == ("0", "8", "6", "1")
    control = (
        "{dataset: {base: '2', whole: 'false'}, matches: () => false, "
        "querySelectorAll: () => [{value: %d, matches: () => false}]}"
    )
    assert [js.run(f"valueOf({control % k})") for k in (0, 6, 8)] == [1, 64, 256]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: widget("nothing"), ValueError, "name is 'nothing'"),
        (lambda: widget("memory", theta=1), TypeError, "theta is not a control of 'memory'"),
        (lambda: widget("memory", tau=0.1), ValueError, "tau is 0.1, expected 2 to 500"),
        (lambda: widget("discretization", rule="foh"), ValueError, "rule is 'foh'"),
        (lambda: widget("mamba", wanted=(16,)), ValueError, "wanted is"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def ends(control):
    """The values of a control at which something could go wrong."""
    if isinstance(control, Slider):
        return [control.low, control.start, control.high]
    if isinstance(control, Choice):
        return list(control.options)
    assert isinstance(control, Marks)
    return [[mark] * control.count for mark in (False, True)]


def at_start(control):
    if isinstance(control, Marks):
        return [k in control.start for k in range(control.count)]
    return control.start


# For what only a page has: panels, which here look at the numbers that they get, a drawing, and atob.
STAND_INS = """
    globalThis.makeSpring = () => () => null,
    globalThis.makeBlocks = () => () => null,
    globalThis.finite = true,
    globalThis.makePanel = () => (tables) => {
        const bad = (value) => value !== null && !Number.isFinite(value);
        if (tables.flat(2).some(bad)) finite = false;
    },
    globalThis.atob = (text) => {
        const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const bits = [...text.replaceAll("=", "")].map((c) => letters.indexOf(c).toString(2).padStart(6, 0)).join("");
        return bits.match(/.{8}/g).map((byte) => String.fromCharCode(parseInt(byte, 2))).join("");
    },
"""


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if entry.charts])
def test_sentence_at_both_ends_of_every_control(name):
    js = engine_for(name, "page.js", f"draw/{name}.js")
    js.run(STAND_INS + f"globalThis.draw = figure({{}}, {json.dumps(CATALOGUE[name].data())}), 0")
    controls = CATALOGUE[name].controls
    values = {control.name: at_start(control) for control in controls}
    for control in controls:
        for end in ends(control):
            here = {**values, control.name: end}
            fields = {key: {"value": str(value)} for key, value in here.items()}
            if name == "s4":  # the page moves the slider back into its range
                fields["n"]["value"] = "0"
            sentence = js("draw", here, fields)
            assert js.run("finite"), here
            assert len(sentence) > 40 and not re.search("undefined|NaN|∞|--", sentence), sentence


# --- chapters -----------------------------------------------------------------------------------


def figures_in(page):
    """The outputs of the cells of a chapter that end in such a figure, and the figures as of now."""
    notebook = nbformat.read(ROOT / f"{page}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.match(r"widgets\.widget\(", cell.source):
            assert isinstance(ast.parse(cell.source).body[-1], ast.Expr)
            yield cell.outputs[0]["data"], eval(cell.source, {"widgets": widgets})


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_chapter_has_a_figure_and_stores_the_present_one(page):
    found = list(figures_in(page))
    assert found, "a chapter without a figure that computes"
    for stored, figure in found:
        message = f"the figure {figure.name!r} has changed: make notebooks"
        same = stored == {"text/html": figure._repr_html_(), "text/plain": repr(figure)}
        assert same, message


@pytest.mark.parametrize("page", CHAPTERS)
def test_scripts_of_a_page_stay_light(page):
    notebook = nbformat.read(ROOT / f"{page}.ipynb", as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    weight = sum(len(o.get("data", {}).get("text/html", "").encode()) for o in outputs)
    assert weight < 500_000
