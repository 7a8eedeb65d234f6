"""What is loaded when, engines and missing packages, and predicting after a fork: each in a fresh interpreter."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lstmx

PYTHONPATH = os.path.dirname(os.path.dirname(lstmx.__file__))  # children import what is tested here

OPTIONAL = ["scipy", "safetensors", "matplotlib", "tqdm", "sklearn", "torch", "onnx", "pandas"]

MODEL = """
import numpy as np, lstmx
def make():
    return lstmx.Sequential([lstmx.LSTM(2, 8), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
x = np.random.default_rng(0).normal(size=(16, 12, 2))
y = x[:, 0, 0]
"""

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError("No module named " + repr(name))
sys.meta_path.insert(0, Block())
"""


def run(code, *parts, timeout=60, **env):
    """The output of a script; its failure is the test's."""
    whole = "\n".join([*map(textwrap.dedent, parts), textwrap.dedent(code)])
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LSTMX_")} | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", whole],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean | env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def block(*names):
    return BLOCK.format(names=set(names))


LOADED = """
def loaded():
    import sys
    return sorted({name.partition(".")[0] for name in sys.modules} & set(OPTIONAL))
OPTIONAL = %r
""" % (OPTIONAL,)  # noqa: UP031


def test_import_loads_numpy_and_nothing_else():
    assert run("import lstmx; print(loaded(), 'numpy' in sys.modules)", "import sys", LOADED) == "[] True"


def test_import_loads_no_blas_module():
    assert run("import lstmx, sys; print('lstmx._core.blas' in sys.modules)") == "False"


def test_modules_of_onnx_are_there_when_they_are_named():
    pytest.importorskip("onnx")
    run("import lstmx; lstmx.interop.onnx.estimators.register; lstmx.interop.onnx.export.to_onnx")


def test_import_works_where_numpy_is_all_there_is():
    assert run("import lstmx; print(lstmx.__version__)", block(*OPTIONAL))


def test_building_a_model_loads_nothing_more():
    assert run("make(); make().summary(); print(loaded())", LOADED, MODEL) == "[]"


WORK = """
m = make()
m.predict(x)
m.fit(x, y, epochs=1, verbose=2)
"""


@pytest.mark.parametrize("engine", ["", "tile", "reference"])
def test_predicting_and_training_load_nothing_more(engine):
    assert run("print(loaded())", LOADED, MODEL, WORK, LSTMX_ENGINE=engine).splitlines()[-1] == "[]"


def test_the_blas_engine_loads_no_more_of_scipy_than_its_blas():
    """What `import scipy.linalg.cython_blas` brings is the floor."""
    pytest.importorskip("scipy")
    names = "print(*[m for m in sys.modules if m.startswith('scipy')])"
    ours = run(names, "import sys", MODEL, WORK, LSTMX_ENGINE="blas").splitlines()[-1].split()
    assert set(ours) <= set(run(names, "import sys, scipy.linalg.cython_blas").split())


def test_save_and_load_load_nothing_more(tmp_path):
    code = f"""
        p = {str(tmp_path / "model")!r}
        make().save(p)
        lstmx.load(p)
        print(loaded())
        """
    assert run(code, LOADED, MODEL) == "[]"


def test_what_only_predicts_loads_no_training(tmp_path):
    code = f"""
        p = {str(tmp_path / "model")!r}
        make().save(p)
        lstmx.load(p).predict(x)
        print(*[m for m in sys.modules if m.startswith(("lstmx.training", "lstmx.losses", "lstmx.optim"))])
        """
    assert run(code, "import sys", MODEL) == ""


@pytest.mark.parametrize("first", ["import lstmx.loading", "import lstmx; lstmx.load", "from lstmx import loading"])
def test_load_is_a_function_whatever_is_imported_first(first):
    assert run(f"{first}; import lstmx.loading, inspect; print(inspect.isfunction(lstmx.load))") == "True"


EVERYTHING = """
    ragged = [x[n, : n + 1] for n in range(12)]
    layers = [lstmx.LSTM(2, 8, 2, bidirectional=True, dropout=0.1), lstmx.Dense(16, 5, "tanh"), lstmx.Last(),
              lstmx.Dense(5, 1)]
    for name in ("float32", "float64"):
        m = lstmx.Sequential(layers, random_state=0).astype(name)
        layers = [layer.copy() for layer in m.layers]
        m.fit(x, y, epochs=2, verbose=0)
        assert np.isfinite(m.predict(ragged)).all()
        lstm = m.layers[0]
        _, _, tape = lstm.forward(x)
        lstm.backward(tape, None)
        lstm.trace(x)
        assert lstm(x)[0].shape == (16, 12, 16) and lstm.memory(16, 12) > 0
    one = lstmx.LSTM(2, 8)
    one.step(x[:, 0], one.step(x[:, 0])[1])
    print(loaded())
    """


@pytest.mark.parametrize("engine", ["", "tile", "reference"])
def test_all_but_the_blas_engine_work_without_scipy(engine):
    assert run(EVERYTHING, block("scipy"), LOADED, MODEL, LSTMX_ENGINE=engine) == "[]"


@pytest.mark.parametrize("engine", ["tile", "blas"])
def test_the_engines_agree(engine):
    """From the same start, two epochs of float32: the same to rounding, about 1e-6 of values of order 1."""
    if engine == "blas":
        pytest.importorskip("scipy")
    code = "m = make(); m.fit(x, y, epochs=2, verbose=0, random_state=0); print(*m.predict(x)[:, 0])"
    one, two = (run(code, MODEL, LSTMX_ENGINE=name).split() for name in (engine, "reference"))
    assert len(one) == 16
    assert max(abs(float(a) - float(b)) for a, b in zip(one, two, strict=True)) < 1e-5


@pytest.mark.parametrize(
    "call", ["predict(x)", "fit(x, y, epochs=1, verbose=0)", "layers[0](x)", "layers[0].step(x[:, 0])"]
)
def test_without_scipy_the_blas_engine_says_what_to_install(call):
    code = f"""
        try:
            make().{call}
        except ImportError as error:
            print(error)
        """
    message = run(code, block("scipy"), MODEL, LSTMX_ENGINE="blas")
    assert "blas engine needs SciPy" in message and "pip install 'scipy>=1.13'" in message


def test_without_matplotlib_the_error_says_what_to_install():
    code = """
        history = make().fit(x, y, epochs=1, verbose=0)
        try:
            history.plot()
        except ImportError as error:
            print(error)
        """
    assert "pip install 'matplotlib>=3.8'" in run(code, block("matplotlib"), MODEL)


def test_without_tqdm_training_shows_lines():
    code = "import sys; sys.stderr = sys.stdout; make().fit(x, y, epochs=2)"
    assert run(code, block("tqdm"), MODEL).count("epoch ") == 2


@pytest.mark.parametrize("name", ["tiles", "BLAS", "numpy"])
def test_an_unknown_engine_is_an_error_at_import(name):
    code = """
        try:
            import lstmx
        except ImportError as error:
            print(error)
        """
    message = run(code, LSTMX_ENGINE=name)
    assert f"LSTMX_ENGINE={name!r} is not an engine" in message and "'tile'" in message and "'blas'" in message


def test_an_empty_engine_variable_is_the_default():
    assert run("print(make().predict(x).shape)", MODEL, LSTMX_ENGINE="") == "(16, 1)"


def test_every_public_name_exists_and_is_listed():
    code = """
        for name in lstmx.__all__:
            assert getattr(lstmx, name) is not None, name
        print(set(lstmx.__all__) <= set(dir(lstmx)))
        try:
            lstmx.GRU
        except AttributeError as error:
            print(error)
        """
    assert run(code, "import lstmx") == "True\nmodule 'lstmx' has no attribute 'GRU'"


FORK = """
    import os, signal, warnings
    warnings.simplefilter("ignore", DeprecationWarning)     # Python 3.12: fork beside threads, which is the point here
    m = make()
    big = np.random.default_rng(0).normal(size=(64, 60, 2))
    with lstmx.num_threads({threads}):
        m.fit(big, big[:, 0, 0], epochs=1, batch_size=64, verbose=0)
    wanted = m.predict(big)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            {work}
            code = 0 if (m.predict(big) == wanted).all() or {trains} else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), (m.predict(big) == wanted).all())
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("trains", [False, True])
def test_a_forked_child_predicts_and_trains(threads, trains):
    """The child of a process with OpenMP threads must not wait for threads that only its parent has."""
    work = "m.fit(big, big[:, 0, 0], epochs=1, verbose=0)" if trains else "pass"
    code = FORK.format(threads=threads, work=work, trains=trains)
    assert run(code, MODEL, timeout=40, OPENBLAS_NUM_THREADS=str(threads)) == "0 True"


def test_a_spawned_worker_predicts(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        textwrap.dedent(MODEL)
        + textwrap.dedent(
            """
            import multiprocessing
            def work(m):
                return m.predict(x).tobytes()
            if __name__ == "__main__":
                m = make()
                m.fit(x, y, epochs=1, verbose=0)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.map_async(work, [m]).get(30) == [m.predict(x).tobytes()])
            """
        )
    )
    env = os.environ | {"PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=env)
    assert done.stdout.strip() == "True", done.stderr


# Estimators, and what they save.

SAVED = """
import sys
import numpy as np, lstmx
X = np.random.default_rng(0).normal(size=(12, 5, 2))
y = np.array(["a", "b", "c"])[np.arange(12) % 3]
path = {path!r}
"""


@pytest.fixture
def saved(tmp_path):
    """A saved classifier, and the code that knows where it is."""
    pytest.importorskip("sklearn")
    code = SAVED.format(path=str(tmp_path / "model"))
    fit = """
        import warnings
        warnings.simplefilter("ignore", sys.modules["sklearn.exceptions"].ConvergenceWarning)
        lstmx.LSTMClassifier(hidden_size=3, max_iter=2, random_state=0).fit(X, y).save(path)
        """
    run(fit, code, "import sklearn.exceptions")
    return code


def test_an_estimator_loads_scikit_learn_when_it_is_touched():
    pytest.importorskip("sklearn")
    code = """
        import lstmx
        dir(lstmx)
        lstmx.predictors
        assert "sklearn" not in sys.modules and "lstmx.estimators" not in sys.modules
        lstmx.LSTMClassifier
        print("sklearn" in sys.modules, "matplotlib" in sys.modules, "tqdm" in sys.modules, "torch" in sys.modules)
        """
    assert run(code, "import sys") == "True False False False"


ESTIMATORS = ["LSTMAnomalyDetector", "LSTMClassifier", "LSTMForecaster", "LSTMRegressor", "LSTMTransformer",
              "LossCurveDisplay", "SequenceScaler"]  # fmt: skip


def test_without_scikit_learn_the_error_says_what_to_install():
    code = f"""
        import lstmx
        for name in {[*ESTIMATORS, "estimators"]!r} * 2:         # the second time too
            try:
                getattr(lstmx, name)
            except ImportError as error:
                assert "need scikit-learn: pip install 'scikit-learn>=1.6'" in str(error), error
                print(name)
        try:
            from lstmx import LSTMClassifier
        except ImportError as error:
            assert "pip install 'scikit-learn>=1.6'" in str(error), error
            print("imported")
        """
    assert run(code, block("sklearn")).split() == [*ESTIMATORS, "estimators"] * 2 + ["imported"]


@pytest.mark.parametrize("missing", [["sklearn"], OPTIONAL], ids=["scikit-learn", "all"])
def test_nobody_meets_a_name_that_cannot_be_loaded(missing):
    """`help(lstmx)` and the like ask for every name that they are told of."""
    code = """
        from lstmx import *
        import inspect, pydoc, rlcompleter, lstmx
        completer, complete = rlcompleter.Completer({"lstmx": lstmx}), []
        while match := completer.complete("lstmx.", len(complete)):
            complete.append(match.removeprefix("lstmx.").rstrip("()"))
        print(*(name for name in globals() if name in NAMES))
        print(*(name for name in dir(lstmx) if getattr(lstmx, name) is not None))
        print(*(name for name, _ in inspect.getmembers(lstmx)))
        print(*complete)
        print(*(name for name in NAMES if f"class {name}(" in pydoc.plain(pydoc.render_doc(lstmx))))
        """
    listed = ["LSTM", "Sequential", "Adam", "EarlyStopping"]
    for found in run(code, block(*missing), f"NAMES = {[*listed, *ESTIMATORS, 'estimators']!r}").splitlines():
        assert set(listed) <= set(found.split()), found
        assert not {*ESTIMATORS, "estimators"} & set(found.split()), found


def test_where_scikit_learn_is_installed_the_estimators_are_listed():
    pytest.importorskip("sklearn")
    code = "print({*NAMES} <= {*lstmx.__all__} & {*dir(lstmx)} & {n for n, _ in inspect.getmembers(lstmx)})"
    assert run(code, f"import inspect, lstmx\nNAMES = {[*ESTIMATORS, 'estimators']!r}") == "True"


def test_a_saved_classifier_is_loaded_and_predicts_with_numpy_alone(saved):
    code = """
        clf = lstmx.load(path)
        print(loaded())
        clf.predict(X), clf.predict_proba(X), clf.predict_log_proba([x[:3] for x in X]), clf.trace(X), repr(clf)
        clf.save(path)
        print(loaded(), sorted(set(clf.predict(X)) - set(y)), "lstmx.estimators" in sys.modules)
        """
    assert run(code, saved, LOADED).splitlines() == ["[]", "[] [] False"]


def test_a_saved_classifier_is_loaded_where_all_that_is_optional_is_missing(saved):
    code = "print(lstmx.load(path).predict(X).shape)"
    assert run(code, block(*OPTIONAL), saved) == "(12,)"


def test_an_uncompiled_checkout_says_what_it_is(tmp_path):
    """Python finds the folder that it is started in before what is installed."""
    source = Path(lstmx.__file__).parent
    shutil.copytree(source, tmp_path / "lstmx", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    command = [sys.executable, "-c", "import lstmx"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and "source of lstmx, which is not compiled" in last and "-e ." in last
