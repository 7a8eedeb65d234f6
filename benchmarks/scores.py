"""The same networks trained by lstmx, PyTorch and Keras on real data: how good they get, and how soon.

    python benchmarks/scores.py [--data NAME,..] [--engines lstmx,torch,keras] [--seeds 3] [--threads 2] [--quick]
                                [--json FILE] [--markdown] [--write docs/performance.md]

Every engine works in a process of its own with the same number of threads and gets the same standardised float32
arrays, architecture, loss, Adam (learning rate, batch size, clipping by norm) and number of epochs. It starts from its
own default weights and shuffles as it does by default. Rounds, one a seed, alternate between the engines.

A round is two trainings of the same seed. The first is a whole fit, from building the network to its last update,
with what the engine compiles on the way; its network gives the score on the test set. The second is evaluated on the
test set after every epoch, with the clock stopped, and ends at the first epoch that reaches the target: this is the
time to the target. Networks and budgets were chosen on the training sets; see scores_data.py.

With more threads than idle CPUs PyTorch can become many times slower; ``--threads 1,2`` shows both.

Needs the packages of the engines asked for, scikit-learn and aeon (``pip install --no-deps aeon``).
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from scores_data import LOADERS, SETTINGS, SOURCES, Setting


def padded(sequences, steps=None):
    """Zeros after the end of each: (N, T, I), lengths (N,)."""
    lengths = np.array([len(x) for x in sequences])
    x = np.zeros((len(sequences), steps or lengths.max(), sequences[0].shape[1]), np.float32)
    for row, sequence in zip(x, sequences, strict=True):
        row[: len(sequence)] = sequence
    return x, lengths


class LstmxEngine:
    """The estimators of lstmx."""

    def __init__(self, threads):
        import lstmx

        lstmx.set_num_threads(threads)
        self.kinds = lstmx.LSTMRegressor, lstmx.LSTMClassifier  # imports scikit-learn now, not in the first fit
        self.versions = {"lstmx": lstmx.__version__}

    def fit(self, s, data, seed, watch):
        """Train.

        Parameters
        ----------
        s : Setting
        data : Data
        seed : int
        watch : callable or None
            Called after every epoch with a function from inputs to outputs; ends the training by returning True.

        Returns
        -------
        callable
            From inputs to outputs.
        """
        estimator = self.kinds[data.classes](
            s.hidden, s.layers, bidirectional=s.bidirectional, pooling="final" if s.pooling == "last" else s.pooling,
            standardize=False, alpha=0, batch_size=s.batch, learning_rate_init=s.rate, max_iter=s.epochs,
            n_iter_no_change=s.epochs, clip_norm=s.clip, random_state=seed,
        )  # fmt: skip
        predict = estimator.predict_proba if data.classes else estimator.predict
        if watch is None:
            estimator.fit(data.train, data.y)
            return predict
        more = {"classes": np.arange(data.outputs)} if data.classes else {}
        for _ in range(s.epochs):
            estimator.partial_fit(data.train, data.y, **more)
            if watch(predict):
                break
        return predict


class TorchEngine:
    """PyTorch, with packed sequences where they are ragged; the loop is as short as it can be."""

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.versions = {"torch": torch.__version__}

    def fit(self, s, data, seed, watch):
        """As `LstmxEngine.fit`."""
        torch = self.torch
        torch.manual_seed(seed)
        lstm = torch.nn.LSTM(
            data.train[0].shape[1], s.hidden, s.layers, bidirectional=s.bidirectional, batch_first=True
        )
        dense = torch.nn.Linear(s.hidden * (1 + s.bidirectional), data.outputs)
        parameters = [*lstm.parameters(), *dense.parameters()]
        adam = torch.optim.Adam(parameters, lr=s.rate)
        loss = torch.nn.functional.cross_entropy if data.classes else torch.nn.functional.mse_loss
        x, lengths = self._tensors(data.train)
        y = torch.from_numpy(data.y)

        def forward(x, lengths):
            if lengths is not None:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            out, (h, _) = lstm(x)
            if s.pooling == "last":
                return dense(torch.cat(list(h[-1 - s.bidirectional :]), dim=1))
            if lengths is None:
                return dense(out.mean(dim=1))
            out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            return dense(out.sum(dim=1) / lengths[:, None])

        @torch.inference_mode()
        def predict(inputs):
            x, lengths = self._tensors(inputs)
            parts = torch.arange(len(x)).split(256)
            return torch.cat([forward(x[part], None if lengths is None else lengths[part]) for part in parts]).numpy()

        for _ in range(s.epochs):
            for chosen in torch.randperm(len(x)).split(s.batch):
                adam.zero_grad()
                loss(forward(x[chosen], None if lengths is None else lengths[chosen]), y[chosen]).backward()
                torch.nn.utils.clip_grad_norm_(parameters, s.clip)
                adam.step()
            if watch and watch(predict):
                break
        return predict

    def _tensors(self, inputs):
        if isinstance(inputs, list):
            return [self.torch.from_numpy(array) for array in padded(inputs)]
        return self.torch.from_numpy(inputs), None


class KerasEngine:
    """Keras on TensorFlow, with a mask over padding where sequences are ragged."""

    def __init__(self, threads):
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        import keras

        tensorflow.get_logger().setLevel("ERROR")  # it warns of the compilation of every new network
        self.keras = keras
        self.versions = {"keras": keras.__version__, "tensorflow": tensorflow.__version__}

    def fit(self, s, data, seed, watch):
        """As `LstmxEngine.fit`."""
        keras = self.keras
        layers = keras.layers
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        ragged = isinstance(data.train, list)
        steps = max(len(x) for part in (data.train, data.test) for x in part)  # one length is compiled once

        def inputs(x):
            return padded(x, steps)[0] if ragged else x

        model = keras.Sequential([keras.Input((steps, data.train[0].shape[1]))])
        if ragged:
            model.add(layers.Masking())
        for layer in range(s.layers):
            lstm = layers.LSTM(s.hidden, return_sequences=s.pooling == "mean" or layer < s.layers - 1)
            model.add(layers.Bidirectional(lstm) if s.bidirectional else lstm)
        if s.pooling == "mean":
            model.add(layers.GlobalAveragePooling1D())
        model.add(layers.Dense(data.outputs, "softmax" if data.classes else None))
        # jit_compile=True was no faster on the three data sets it was tried on: compiling costs what it gains.
        model.compile(
            optimizer=keras.optimizers.Adam(s.rate, epsilon=1e-8, global_clipnorm=s.clip),
            loss="sparse_categorical_crossentropy" if data.classes else "mse",
        )

        def predict(x):
            return model.predict(inputs(x), batch_size=256, verbose=0)

        class Watch(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if watch(predict):
                    model.stop_training = True

        model.fit(inputs(data.train), data.y, batch_size=s.batch, epochs=s.epochs, verbose=0,
                  callbacks=[Watch()] if watch else [])  # fmt: skip
        return predict


ENGINES = {"lstmx": LstmxEngine, "torch": TorchEngine, "keras": KerasEngine}


def one_round(engine, setting, data, seed):
    """Both trainings of a round: a dict of scores and seconds; "target" is None if it was not reached."""
    start = time.perf_counter()
    predict = engine.fit(setting, data, seed, None)
    found = {"fit": time.perf_counter() - start, "target": None, "scores": data.scores(predict), "by epoch": []}
    start = time.perf_counter()

    def watch(predict):
        nonlocal start
        now = time.perf_counter()
        score = next(iter(data.scores(predict).values()))
        found["by epoch"].append(score)
        if score <= setting.target if data.less_is_better else score >= setting.target:
            found["target"] = now - start
        start += time.perf_counter() - now
        return found["target"] is not None

    engine.fit(setting, data, seed, watch)
    return found


def serve(name, threads):
    """The process of one engine: a line of JSON in, a line out; what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(reply):
        print(json.dumps(reply), file=channel, flush=True)

    engine, loaded = ENGINES[name](threads), {}
    send(engine.versions)
    for line in sys.stdin:
        request = json.loads(line)
        name = request["data"]
        try:
            if name not in loaded:
                loaded[name] = LOADERS[name]()
            send(one_round(engine, Setting(**request["setting"]), loaded[name], request["seed"]))
        except Exception as error:
            send({"error": f"{type(error).__name__}: {error}"[:500]})


class Worker:
    """The parent's side of such a process, started at once; it ends when its standard input does."""

    def __init__(self, name, threads):
        from lstmx.bench import environment

        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--threads", str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment.of_workers(threads, {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}),
        )  # fmt: skip
        self.name, self.versions = name, self._receive()

    def _receive(self):
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"{self._errors.read()[-2000:]}scores: {self.name} ended with status {status}")
        reply = json.loads(line)
        if "error" in reply:
            raise SystemExit(f"scores: {self.name}: {reply['error']}")
        return reply

    def ask(self, **request):
        """What `one_round` found."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._receive()

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()


def spread(values, digits=3):
    """Mean and range."""
    mean, low, high = (f"{f(values):.{digits}f}" for f in (statistics.mean, min, max))
    return mean if low == high else f"{mean} ({low}..{high})"


def seconds(value):
    """Text; endless is "-"."""
    return f"{value:.3g}" if value < math.inf else "-"


def over(value, ours):
    """Seconds as a multiple of lstmx's."""
    return f"{value / ours:.1f}x" if max(value, ours) < math.inf else "-"


def rows_of(name, setting, data, rounds):
    """The rows of one data set; `rounds` is "engine threads" -> list of what `one_round` found."""
    found = {}
    for key, runs in rounds.items():
        # A seed that never got there counts as endless: the median is then a time only if most seeds got there.
        times = sorted(math.inf if run["target"] is None else run["target"] for run in runs)
        found[key] = min(run["fit"] for run in runs), times[0], statistics.median_high(times), times.count(math.inf)
    for key, runs in rounds.items():
        engine, threads = key.split()
        fit, least, median, missed = found[key]
        ours = found.get(f"lstmx {threads}", (math.inf,) * 3)
        scores = ", ".join((f"{measure} " if k else "") + spread([run["scores"][measure] for run in runs])
                           for k, measure in enumerate(runs[0]["scores"]))  # fmt: skip
        yield {
            "data": f"{name}, {data.measure}", "engine": engine, "threads": threads, "test score": scores,
            "published": setting.published, "without a network": data.baseline,
            "fit, s": seconds(fit), "peer / lstmx": over(fit, ours[0]),
            "target": f"{'<=' if data.less_is_better else '>='} {setting.target:g}",
            "to target, s: least": seconds(least), "median": seconds(median),
            "missed": f"{missed} of {len(runs)}" if missed else "",
            "least: peer / lstmx": over(least, ours[1]), "median: peer / lstmx": over(median, ours[2]),
        }  # fmt: skip


def table(rows):
    """The rows as text, in columns of equal width."""
    titles = list(rows[0])
    lines = [titles, *([row[title] for title in titles] for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(titles))]
    lines.insert(1, ["-" * width for width in widths])
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in text)


def summary(rows):
    """The rows as a Markdown table of one line for each data set and number of threads."""
    groups, engines = {}, list(dict.fromkeys(row["engine"] for row in rows))
    for row in rows:
        groups.setdefault((row["data"], row["threads"]), {})[row["engine"]] = row
    peers = [engine for engine in engines if engine != "lstmx"]
    times = [("fit", "peer / lstmx"), ("to target", "median: peer / lstmx")]
    titles = ["data, score", "threads", "published", "no network", *engines,
              *(f"{what}: {peer} / lstmx" for what, _ in times for peer in peers)]  # fmt: skip
    lines = [titles, ["---"] * len(titles)]
    for (data, threads), found in groups.items():
        first = next(iter(found.values()))
        lines.append([data, threads, first["published"], first["without a network"],
                      *(found[engine]["test score"] for engine in engines),
                      *(found[peer][column] for _, column in times for peer in peers)])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(settings, engines, seeds, threads):
    """Run everything: (engine -> versions, data set -> "engine threads" -> what `one_round` found for each seed)."""
    with contextlib.ExitStack() as stack:
        workers, found = {}, {}
        for count in threads:
            for engine in engines:
                worker = workers[f"{engine} {count}"] = Worker(engine, count)
                stack.callback(worker.close)
        for name, setting in settings.items():
            rounds = found[name] = {key: [] for key in workers}
            for seed in range(seeds):
                for key, worker in workers.items():
                    start = time.perf_counter()
                    run = worker.ask(data=name, setting=asdict(setting), seed=seed)
                    rounds[key].append(run)
                    said = ", ".join(f"{measure} {value:.4f}" for measure, value in run["scores"].items())
                    print(f"{name}, seed {seed}, {key}: {said}, {time.perf_counter() - start:.1f} s", file=sys.stderr)
        return {worker.name: worker.versions for worker in workers.values()}, found


def names_in(text, known):
    """A list from "a,b", checked."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=lambda text: names_in(text, SETTINGS), help="all by default")
    parser.add_argument("--engines", type=lambda text: names_in(text, ENGINES), default=list(ENGINES))
    parser.add_argument("--seeds", type=int, default=3, help="rounds; 3 by default")
    parser.add_argument("--threads", type=lambda text: [int(word) for word in text.split(",")], default=[2],
                        help="of every engine; 2 by default; with 1,2 all run with both")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="does it run? Two data sets, few epochs, one seed")
    parser.add_argument("--json", type=Path, help="write all that was measured to this file")
    parser.add_argument("--markdown", action="store_true", help="print a shorter table, as Markdown")
    parser.add_argument("--write", type=Path, help="a page with the marks of that table")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.threads[0])

    from lstmx.bench import environment, report

    if options.write:
        report.parts_of(options.write, "scores")  # an error now, not after the measurements
    seeds = 1 if options.quick else options.seeds
    names = options.data or (["JapaneseVowels", "CO2"] if options.quick else list(SETTINGS))
    settings = {name: SETTINGS[name] for name in names}
    if options.quick:
        settings = {name: replace(s, epochs=max(1, s.epochs // 15)) for name, s in settings.items()}
    versions, found = measured(settings, options.engines, seeds, options.threads)
    machine = environment.describe()
    rows = [row for name in names for row in rows_of(name, settings[name], LOADERS[name](), found[name])]
    told = ", ".join(f"{name} {version}" for part in versions.values() for name, version in part.items())
    about = f"\n{SOURCES}\n\n{machine['cpu']}, {machine['cpus']} CPUs; {seeds} seeds; {told}."
    print(summary(rows) if options.markdown else table(rows))
    print(about)
    if options.write:
        report.write(options.write, "scores", summary(rows) + "\n" + about)
    if options.json:
        all_of_it = {"machine": machine, "versions": versions, "rounds": found, "table": rows}
        all_of_it["settings"] = {name: asdict(s) for name, s in settings.items()}
        options.json.write_text(json.dumps(all_of_it, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
