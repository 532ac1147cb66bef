"""The training loop: steps, validation, checkpoints, interruption and resumption.

A step depends on the configuration, the seed and the step number alone, so that a resumed run is
the same run.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskdiff import checkpoint
from maskdiff.checkpoint import resolve_device
from maskdiff.config import Config, TrainConfig
from maskdiff.config_io import dump_yaml
from maskdiff.data import Batches, PackedCanvases, pack, step_generator
from maskdiff.errors import ConfigError, LogitsError, UserError, quote
from maskdiff.languages import Vocabulary, make_language, model_vocabulary, token_lengths
from maskdiff.models.losses import sums_by, weighted_nll
from maskdiff.models.universal import LATE_INPUTS, UniversalDenoiser
from maskdiff.noise import MODES, Strings, mixture, reference_noise
from maskdiff.training.compiling import compiled
from maskdiff.training.conditioning import DROPOUT, NOISE, couple, self_condition
from maskdiff.training.console import STREAM, write_line
from maskdiff.training.distributed import World, join_world, shard
from maskdiff.training.fitting import fit_line_grammar, fit_ngram
from maskdiff.training.folder import RunFolder
from maskdiff.training.monitor import Monitor
from maskdiff.training.optimizers import lr_scale, make_optimizers, set_lr
from maskdiff.training.signals import stop_signals
from maskdiff.training.state import (
    Curve,
    Ema,
    RunProgress,
    capture,
    check_same_language,
    check_unchanged,
    provenance,
    restore,
    with_absolute_paths,
)
from maskdiff.training.time_limit import TimeLimit, spread_evaluations


class NotFinite(UserError):
    """The loss, the gradient or the weights are not finite."""


class Trainer:
    """One training run, which `run` trains.

    Args:
        config: all options of the run.
        folder: of its files; made if missing.
        resume: continue the run of `last.pt` in `folder`.
        init: a checkpoint of initial weights; not together with `resume`.

    Raises:
        ConfigError: options do not fit each other or the run that is resumed.
        CheckpointError: a checkpoint is unusable.
    """

    def __init__(
        self, config: Config, folder: Path, resume: bool = False, init: str | Path | None = None
    ):
        train = spread_evaluations(config.train)
        if resume and init is not None:
            raise ConfigError("a resumed run has its weights already; give either resume or init")
        self.device = resolve_device(train.device)
        if train.threads:
            torch.set_num_threads(train.threads)
        self.world: World = join_world(self.device)
        self.shards = train.shards or self.world.size
        self.shard_numbers = self.world.shard_numbers(self.shards)
        self.folder, self.resumed, self.files = folder, resume, RunFolder(folder)

        # The language and its vocabulary, which a run that continues from weights keeps.
        self.language = make_language(config.language)
        source = folder / "last.pt" if resume else init
        payload = None if source is None else checkpoint.load(source, self.device)
        shown = quote(str(source))
        self.vocabulary = vocabulary = self._vocabulary(config, payload, shown)
        self.lengths = self._token_lengths()
        longest = config.language.max_len
        model_config = replace(config.model, vocab_size=len(vocabulary), block_size=longest)
        self.config = replace(config, model=model_config, train=train)
        self.time_limit = TimeLimit(train.minutes)
        self.note = self.language.note
        if resume and payload is not None:
            self.note = self.note or self._check_same(payload, shown)

        # The model, its optimizers and counters, from random weights or a checkpoint.
        torch.manual_seed(train.seed)
        try:
            self.model = UniversalDenoiser(model_config).to(self.device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.optimizers = make_optimizers(self.model, train)
        self.ema = Ema(self.model, train.ema)
        self.progress, self.curve = RunProgress(), Curve()
        if payload is not None:
            checkpoint.check_vocabulary(payload, vocabulary, shown)
            if resume:
                self._resume_from(payload, shown)
            else:
                self._start_from(payload, shown)

        # Data, the functions of a step, and the monitor.
        self.batches = Batches(
            self.language,
            train.num_samples,
            train.batch_size,
            train.seed,
            length_tilt=train.length_tilt,
            vocabulary=vocabulary,
            in_a_row=train.strings_in_a_row,
        )
        self.losses = compiled(self.token_losses) if train.compile else self.token_losses
        self.logits_of = compiled(self.logits) if train.compile else self.logits
        self.monitor: Monitor | None = None
        if self.world.is_leader:
            self.monitor = Monitor(self.config, self.language, vocabulary, folder, self.first())
        self.stop_signal: int | None = None

    @cached_property
    def simple_models(self) -> dict[str, Any]:
        """The n-gram and the fitted grammar of a corpus, which every checkpoint holds, or None."""
        ngram, grammar = fit_ngram(self.language), fit_line_grammar(self.language)
        return {"ngram": ngram, "grammar_model": grammar}

    def _check_same(self, payload: dict[str, Any], shown: str) -> str:
        """Check that options and strings are those of `payload`; returns a note for the user."""
        check_unchanged(checkpoint.read_config(payload, shown), self.config, shown)
        where = self.config.language.language
        return check_same_language(payload.get("language", {}), self.language.state(), where, shown)

    def _vocabulary(self, config: Config, payload: dict[str, Any] | None, shown: str) -> Vocabulary:
        """The vocabulary of the model; the pieces are those of the checkpoint if it has any."""
        pieces = config.model.vocabulary == "bpe"
        if pieces and payload is not None and payload["vocabulary"].get("merges"):
            return checkpoint.stored_pieces(payload, self.language, shown)
        return model_vocabulary(self.language, config.model)

    def _token_lengths(self) -> list[float]:
        """P(n) that a string has n pieces; empty for a vocabulary of characters."""
        merges = self.vocabulary.merges
        return token_lengths(self.language, self.vocabulary).tolist() if merges else []

    def _resume_from(self, payload: dict[str, Any], shown: str) -> None:
        """Restore the run of `payload`. Raises CheckpointError."""
        state = restore(payload, self.model, self.ema, self.optimizers, shown)
        self.progress, self.curve = state
        train = self.config.train
        if train.minutes and not train.max_iters and not self.progress.open_ended(train):
            before = checkpoint.read_config(payload, shown).train  # with the steps that were set
            self.limit(before.max_iters, before.eval_interval)
        set_lr(self.optimizers, lr_scale(max(0, self.progress.step - 1), self.config.train))

    @torch.no_grad()
    def _start_from(self, payload: dict[str, Any], shown: str) -> None:
        """Copy the weights of another run, without its optimizers and counters.

        Inputs that it lacks stay zero. Raises CheckpointError.
        """
        model = self.model.state_dict()
        new = {name: model[name] for name in LATE_INPUTS if name in model}
        weights = {**new, **checkpoint.neural_weights(payload, shown)}
        checkpoint.check_fits(weights, model, f"the weights in {shown} do not fit this model")
        self.model.load_state_dict(weights)
        self.ema.load(weights)
        parent = payload.get("provenance", {})
        progress, seconds = self.progress, parent.get("train_seconds", 0.0)
        progress.parent_tokens = parent.get("tokens", 0) + parent.get("parent_tokens", 0)
        progress.parent_seconds = seconds + parent.get("parent_seconds", 0.0)

    # ----------------------------------------------------------------------------------- one step

    def noised(self, strings: Strings, step: int) -> tuple[PackedCanvases, int]:
        """The packed global batch of a step, a function of (seed, step), and its inner tokens."""
        config, width = self.config, self.config.language.max_len
        vocabulary = self.vocabulary
        generator = step_generator(config.train.seed, step, NOISE)
        if config.train.faithful:
            canvases = reference_noise(strings, config.noise, vocabulary, generator, width)
        else:
            canvases = mixture(strings, config, vocabulary, generator)
        return pack(canvases, width), int(strings.length.sum()) - 2 * len(strings)

    def logits(
        self,
        batch: PackedCanvases,
        tokens: Tensor,
        causal: Tensor,
        sigma: Tensor,
        previous: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """(rows, width, vocab) logits of `tokens` in the layout of the batch."""
        where = {"segment": batch.segment, "position": batch.position, "from_end": batch.from_end}
        out: Tensor = self.model(
            tokens, sigma, causal=causal, previous=previous, noise=noise, **where
        )
        return out

    def token_losses(
        self, batch: PackedCanvases, previous: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        """Weighted negative log-likelihood of every token, (rows, width)."""
        logits = self.logits(batch, batch.tokens, batch.causal, batch.sigma, previous, noise)
        return weighted_nll(logits, batch.targets, batch.weights)

    def step(self, batch: PackedCanvases, inner_tokens: int) -> tuple[float, Tensor]:
        """Make one update.

        Returns:
            The loss in nats per inner token of the global batch, and (modes, 2) nats and inner
            tokens of each mode.

        Raises:
            NotFinite: the loss or the gradient is not finite; nothing was updated.
        """
        # Sums over all shards: the loss, the modes, the gradients.
        train, step, sums = self.config.train, self.progress.step, 1 + 2 * len(MODES)
        parts = [self.shard_sums(batch, inner_tokens, number) for number in self.shard_numbers]
        total = self.world.sum_shards(torch.stack(parts))  # equal in all processes
        seen = [weight for weight in self.model.parameters() if weight.grad is not None]
        gradients = total[sums:].split([weight.numel() for weight in seen])
        for weight, gradient in zip(seen, gradients, strict=True):
            weight.grad = gradient.view_as(weight)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.grad_clip or math.inf)
        loss, by_mode = total[0].item(), total[1:sums].view(2, len(MODES)).T.cpu()
        if not math.isfinite(loss + norm.item()):
            size = norm.item()
            raise NotFinite(f"the loss is {loss} and the gradient norm {size} at step {step}")

        # The update.
        set_lr(self.optimizers, lr_scale(step, train))
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(step)
        return loss, by_mode

    def shard_sums(self, batch: PackedCanvases, inner_tokens: int, number: int) -> Tensor:
        """Loss, nats by mode, inner tokens by mode, and all gradients of a shard, in one row."""
        # The loss, with the optional inputs of the step.
        train, step = self.config.train, self.progress.step
        if self.config.model.dropout:
            seed = step_generator(train.seed, step, DROPOUT).initial_seed()
            torch.manual_seed(seed + number)
        take_shard = partial(shard, number=number, shards=self.shards)
        mine = batch.map(take_shard).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.amp):
            known = self.logits_of, mine, self.config, self.vocabulary, step
            conditions = self_condition(*known), couple(*known, len(batch.tokens), take_shard)
            losses = self.losses(mine, *conditions)

        # The gradients, and the parts of the loss by mode.
        loss = losses.sum() / inner_tokens
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        modes = torch.where(mine.segment >= 0, mine.mode, 0)
        by_mode = [sums_by(values, modes, len(MODES)) for values in (losses.detach(), mine.inner)]
        gradients = [w.grad.flatten() for w in self.model.parameters() if w.grad is not None]
        return torch.cat((loss.detach()[None], *by_mode, *gradients))

    # ------------------------------------------------------------------------------------ the run

    def run(self) -> RunProgress:
        """Train to `max_iters`, or until a signal, and return the counters.

        Files are written by the leading process.

        Raises:
            UserError: a loss or a gradient is not finite; the state before that step is kept.
            FolderError: another process trains in the folder, or it was removed during the run.
        """
        with self.files if self.world.is_leader else nullcontext():
            try:
                self.begin()
                with self.interruptible():
                    try:
                        self.record()  # due, but not made before the run ended
                        self.train()
                        if self.stop_signal is not None:
                            self.save_usable()
                    except NotFinite as error:
                        raise UserError(f"{error}; {self.keep_last_good()}") from None
            finally:
                if self.monitor:
                    self.monitor.close()
        self.world.close()
        return self.progress

    def begin(self) -> None:
        """Write `config.yaml`, with absolute paths: a run resumes from any working directory."""
        if not self.world.is_leader:
            return
        if not self.files.locked:
            write_line(
                f"the file system of {self.folder} has no locks: start no second training there"
            )
        if not self.resumed or not self.finished or not (self.folder / "config.yaml").exists():
            self.files.write("config.yaml", dump_yaml(with_absolute_paths(self.config)).encode())

    def train(self) -> None:
        """Make the steps, with the records and files that are due after each."""
        progress, train = self.progress, self.config.train
        bar = tqdm(
            total=train.max_iters or None,
            initial=progress.step,
            unit="step",
            disable=not self.world.is_leader,
            file=STREAM,
            mininterval=0.5,
            dynamic_ncols=True,
        )
        batches = self.batches.prefetch(progress.step, self.noised)
        with bar:
            while not self.finished and not self.stopped():
                # The step and its counters.
                before = self.time_limit.clock()
                batch, inner_tokens = next(batches)
                start = time.perf_counter()
                self.curve.loss, by_mode = self.step(batch, inner_tokens)
                self.curve.parts += by_mode
                progress.step += 1
                progress.tokens += inner_tokens
                progress.strings += train.batch_size
                progress.seconds += time.perf_counter() - start

                # The progress bar, files and records.
                bar.update()
                if progress.step % train.log_interval == 0:
                    speed = f"{progress.tokens / progress.seconds:,.0f}"
                    bar.set_postfix(loss=f"{self.curve.loss:.3f}", tok_s=speed, refresh=False)
                if progress.open_ended(train) and self.speed_known(before):
                    train = self.set_length()
                    bar.total = train.max_iters
                if self.due(train.eval_interval) or self.due(train.save_interval):
                    self.save_usable()  # before a validation, which may fail
                self.record()
        if progress.stale(train) and self.world.is_leader:
            write_line(f"the run ends: no better validation since step {progress.best_step:,}")

    def speed_known(self, before: float) -> bool:
        """Count a step that began at `before`; whether the leader has measured enough of them."""
        known = self.time_limit.note_step(self.time_limit.clock() - before)
        return bool(self.world.maximum(int(known and self.world.is_leader)))

    def set_length(self) -> TrainConfig:
        """Set the steps of the run by its speed and the time that is left; returns the options."""
        clock, train, progress = self.time_limit.clock, self.config.train, self.progress
        times: list[float] = []  # from the end of a first save, which also fits the simple models
        for measured in (self.save_usable, self.save_usable, self.validate):
            measured()
            times.append(clock())
        steps, interval = self.time_limit.plan(train, progress.step, times)
        share = self.world.is_leader  # the other processes take the leader's numbers
        self.limit(self.world.maximum(steps * share), self.world.maximum(interval * share))
        progress.budget = train.minutes
        if self.world.is_leader:
            self.files.write("config.yaml", dump_yaml(with_absolute_paths(self.config)).encode())
            self.save("last.pt")
            write_line(f"{train.minutes:g} min are about {self.config.train.max_iters:,} steps")
        return self.config.train

    def limit(self, steps: int, eval_interval: int) -> None:
        """Set the number of steps, and the interval of validation, that a time limit gives."""
        train = replace(self.config.train, max_iters=steps, eval_interval=eval_interval)
        self.config = replace(self.config, train=train)

    def record(self) -> None:
        """Write the entry of the training curve and validate, if due and not done."""
        if self.log_due():
            if self.monitor:
                self.files.check()
                scale = lr_scale(self.progress.step - 1, self.config.train)
                self.monitor.log_step(self.progress, self.curve, scale)
            self.curve = Curve(loss=self.curve.loss, logged=self.progress.step)
        if self.validation_due():
            self.validate()
        if self.config.train.patience:  # all processes end after the same step
            self.progress.best_step = self.world.maximum(self.progress.best_step)
            self.progress.validated = self.world.maximum(self.progress.validated)

    def log_due(self) -> bool:
        """Whether the entry of the training curve of this step is to be written."""
        step = self.progress.step
        return step % self.config.train.log_interval == 0 and self.curve.logged != step

    def validation_due(self) -> bool:
        """Whether the validation of this step is to be made; a run without steps has one."""
        due = self.due(self.config.train.eval_interval)
        return due and self.progress.validated != self.progress.step

    def first(self) -> int:
        """The first step that this process logs; earlier events from there are discarded."""
        step = self.progress.step
        again = self.log_due() or (self.validation_due() and self.curve.logged != step)
        return step if again or not step else step + 1

    @property
    def finished(self) -> bool:
        """Whether all steps are made, or the run ends early."""
        progress, train = self.progress, self.config.train
        return progress.step >= progress.length(train) or progress.stale(train)

    def due(self, interval: int) -> bool:
        """Whether an action of every `interval` steps (0: none) and of the end is due now."""
        step = self.progress.step
        length = self.progress.length(self.config.train)
        return step == length or (step > 0 < interval and step % interval == 0)

    def stopped(self) -> bool:
        """Whether any process received a signal; all of them then store its number."""
        number = self.world.maximum(self.stop_signal or 0)
        if number:  # not 0, which would lose a signal that arrived since
            self.stop_signal = number
        return number > 0

    def validate(self) -> None:
        """Validate the averaged weights, save `last.pt`, and `best.pt` if they are the best."""
        if not self.monitor:
            return
        self.files.check()
        progress = self.progress
        try:
            progress.metrics = self.monitor.validate(self.ema.average, progress)
        except LogitsError as error:
            raise NotFinite(f"the validation after step {progress.step} failed: {error}") from None
        progress.validated = progress.step
        loss = progress.metrics["validation_loss"]
        if loss < progress.best:
            progress.best, progress.best_step = loss, progress.step
            self.save("best.pt")
        self.save("last.pt")

    def usable(self) -> bool:
        """Whether live and averaged weights give finite logits; True in all but the leader."""
        both = (self.ema.live, self.ema.average)
        return self.monitor is None or all(map(self.monitor.finite, both))

    def save_usable(self) -> None:
        """Write `last.pt`. Raises NotFinite, and keeps the old file, for unusable weights."""
        if not self.usable():
            step = self.progress.step
            raise NotFinite(f"the weights after step {step} give NaN or infinite logits")
        self.save("last.pt")

    def keep_last_good(self) -> str:
        """Save the state before a failed step, if its weights are usable.

        Returns a text for the user that says what is saved.
        """
        last, step = self.folder / "last.pt", self.progress.step
        advice = "with a lower lr or muon_lr, or with grad_clip"
        if self.usable():
            self.save("last.pt")
            return f"{last} holds the state before it: resume {advice}"
        there = last.exists()
        kept = f"{last} holds an earlier one: resume" if there else "nothing was saved: start again"
        return f"the weights after {step} steps are unusable; {kept} {advice}"

    def save(self, name: str) -> None:
        """Write a checkpoint in the leading process; only `last.pt` has the training state."""
        if not self.world.is_leader:
            return
        state = capture(self.model, self.optimizers, self.progress, self.curve)
        place = {"processes": self.world.size, "device": str(self.device)}
        payload = checkpoint.make_payload(
            self.config,
            self.vocabulary,
            self.ema.average,
            language=self.language.state(),
            metrics=self.progress.metrics,
            provenance=provenance(self.progress, self.config.train.seed) | place,
            lengths=self.lengths,
            **self.simple_models,
        )
        if name == "last.pt":
            payload["training"] = state
        self.files.write(name, checkpoint.to_bytes(payload))

    def interruptible(self) -> AbstractContextManager[None]:
        """End the run after the step at Ctrl-C or SIGTERM, and at once at a second signal."""

        def note(number: int) -> None:
            self.stop_signal = self.stop_signal or number

        return stop_signals(note)
