"""The training loop: batch, gradients, update; now and then a dev score and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedfit.errors import TrainingError
from embedfit.numerics.arrays import Ints
from embedfit.path.artefacts import TrainingStep
from embedfit.progress import Reporter, duration
from embedfit.training.batches import Batch, Composer, epoch_batches, micro_batches
from embedfit.training.checkpoint import (
    DevRecord,
    State,
    differences,
    read_state,
    restore,
    save_checkpoint,
)
from embedfit.training.dev import DevSet, dev_score
from embedfit.training.losses.loss import Targets
from embedfit.training.losses.objective import Objective
from embedfit.training.memory import MemoryBudget
from embedfit.training.optimise import clip_gradients, make_optimiser, scheduled, set_learning_rate
from embedfit.training.processes.world import World
from embedfit.training.step import StepResult, accumulate_gradients
from embedfit.training.store import TokenStore
from embedfit.training.trunks.trunk import Trunk

#: What random draws are for; each has a generator of its own, a function of the seed and of its place.
_ORDER, _COMPOSE, _DROPOUT = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings of a training, all decided. Fields as in TrainConfig.

    gradient_scale: see accumulate_gradients. settings: what must be equal for a checkpoint to be gone on with.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    dropout: float
    micro_tokens: int
    eval_every: int
    checkpoint_every: int
    patience: int
    keep_last: bool
    seed: int
    gradient_scale: float = 1.0
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """tensors: the best weights by dev, the last ones where there is no dev set. best_step: theirs."""

    state: State
    tensors: dict[str, Tensor]
    best_step: int
    base_dev: float | None
    retained: float
    padded: float


class Schedule:
    """Which batch each step trains on: a pure function of the examples, the seed and the step."""

    def __init__(self, composer: Composer, plan: Plan) -> None:
        self._composer, self._plan = composer, plan
        self._epoch, self._order = -1, list[Ints]()
        self.steps_per_epoch = len(self._batches(0))
        self.total = max(1, math.ceil(plan.epochs * self.steps_per_epoch - 1e-9))

    def batch(self, step: int) -> Batch:
        """The batch of a 0-based step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = self._batches(epoch)[place]
        return self._composer.compose(chosen, np.random.default_rng([self._plan.seed, _COMPOSE, step]))

    def _batches(self, epoch: int) -> list[Ints]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self._plan.seed, _ORDER, epoch])
            self._order = epoch_batches(self._composer.examples, self._plan.batch_size, rng)
            self._epoch = epoch
        return self._order


class Trainer:
    """One training: its model, data and state."""

    def __init__(
        self,
        trunk: Trunk,
        store: TokenStore,
        schedule: Schedule,
        objective: Objective,
        plan: Plan,
        *,
        dev: DevSet | None,
        memory: MemoryBudget,
        report: Reporter,
        world: World = World(),  # noqa: B008 - frozen
    ) -> None:
        self.trunk, self.store, self.schedule = trunk, store, schedule
        self.objective, self.plan, self.dev = objective, plan, dev
        self.memory, self.report, self.world = memory, report, world
        self.optimiser = make_optimiser(trunk.parameters(), plan.weight_decay)
        self.state = State(step=0, settings=dict(plan.settings))
        self.best: dict[str, Tensor] = {}
        self.base_dev: float | None = None
        self._padded = self._tokens = 0
        self._retained = 1.0

    def run(self, scratch: Path) -> Outcome:
        """Train to the end, going on from a checkpoint under scratch where there is one of these settings.

        Raises TrainingError when the loss is no longer a number; the last checkpoint stays.
        """
        self._resume(scratch)
        if self.dev is not None and self.state.step == 0:
            self._record_dev()
            self.report.log(f"train: dev nDCG@10 of the base: {self.state.dev[-1].ndcg10:.4f}")
        total, first = self.schedule.total, self.state.step
        with ThreadPoolExecutor(1) as pool, self.report.task("train", total, "steps") as task:
            task.advance(first)
            upcoming = pool.submit(self.schedule.batch, first)
            while self.state.step < total and not self.state.stopped:
                batch = upcoming.result()
                if self.state.step + 1 < total:
                    upcoming = pool.submit(self.schedule.batch, self.state.step + 1)
                record = self._step(batch)
                if self.state.step == first + 2:
                    self._estimate(record, total)
                self._after_step(scratch)
                scored = self.state.dev and self.state.dev[-1].step > 0
                dev = f", dev {self.state.dev[-1].ndcg10:.3f}" if scored else ""
                task.advance(1, f"loss {record.loss:.3f}, {record.tokens / record.seconds:,.0f} tokens/s{dev}")
        return self._outcome()

    def _step(self, batch: Batch) -> TrainingStep:
        began = time.perf_counter()
        step, plan = self.state.step, self.plan
        rate = scheduled(step, self.schedule.total, plan.learning_rate, plan.warmup_ratio)
        result = self._gradients(batch, step)
        if not math.isfinite(result.loss):
            raise self._stop("loss", result.loss, batch)
        norm = clip_gradients(self.trunk.parameters(), plan.max_grad_norm)
        if not math.isfinite(norm):
            raise self._stop("gradient", norm, batch)
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        record = TrainingStep(
            step=step + 1, loss=result.loss, lr=rate, grad_norm=norm, seconds=seconds, tokens=result.tokens
        )
        self._tokens += result.tokens
        self._padded += result.padded
        self._retained = min(self._retained, result.retained)
        self.state = replace(self.state, step=step + 1, losses=[*self.state.losses, record])
        return record

    def _gradients(self, batch: Batch, step: int) -> StepResult:
        texts = [self.store[text] for text in batch.texts]
        where = self.trunk.device
        targets = Targets.of(batch, where)
        queries, passages = torch.from_numpy(batch.queries).to(where), torch.from_numpy(batch.passages).to(where)
        self.trunk.train(self.plan.dropout)
        return accumulate_gradients(
            self.trunk,
            texts,
            micro_batches(self.store.lengths[batch.texts], self.plan.micro_tokens),
            lambda vectors: self.objective(vectors[queries], vectors[passages], targets),
            memory=self.memory,
            seed=int(np.random.default_rng([self.plan.seed, _DROPOUT, step]).integers(2**62))
            if self.plan.dropout
            else None,
            world=self.world,
            scale=self.plan.gradient_scale,
        )

    def _stop(self, what: str, value: float, batch: Batch) -> TrainingError:
        lines = ", ".join(str(row + 1) for row in batch.rows[:10]) + (" …" if len(batch.rows) > 10 else "")
        kept = " The last good checkpoint is kept." if self.state.step >= self.plan.checkpoint_every else ""
        return TrainingError(
            f"The {what} of step {self.state.step + 1} is {value}; training stopped. "
            f"Its batch holds the rows {lines} of train.jsonl.{kept}",
            remedy="Lower the learning rate or raise the temperature: --set train.learning_rate=1e-5",
        )

    def _after_step(self, scratch: Path) -> None:
        last = self.state.step == self.schedule.total
        if self.dev is not None and (last or self.state.step % self.plan.eval_every == 0):
            self._record_dev()
            self._judge()
        if not last and self.state.step % self.plan.checkpoint_every == 0 and not self.state.stopped:
            self._checkpoint(scratch)

    def _record_dev(self) -> None:
        assert self.dev is not None
        self.trunk.train(0.0)
        score = dev_score(self.trunk, self.dev, self.plan.micro_tokens, self.world)
        self.state = replace(self.state, dev=[*self.state.dev, DevRecord(step=self.state.step, ndcg10=score)])

    def _judge(self) -> None:
        """Keep the weights if they are the best so far; stop if no better ones came for too long."""
        if self.plan.keep_last:
            return
        trained = [record for record in self.state.dev if record.step > 0]
        best = max(trained, key=lambda record: (record.ndcg10, -record.step))
        if best.step == self.state.step:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.trunk.tensors().items()}
        since = sum(record.step > best.step for record in trained)
        if self.plan.patience and since >= self.plan.patience:
            self.state = replace(self.state, stopped=True)
            self.report.log(
                f"train: stopped after step {self.state.step}: "
                f"no better dev score than {best.ndcg10:.4f} at step {best.step}"
            )

    def _checkpoint(self, scratch: Path) -> None:
        if self.world.leads:
            save_checkpoint(scratch, self.state, self.trunk.parameters(), self.optimiser, self.best)
        self.world.barrier()

    def _resume(self, scratch: Path) -> None:
        found = read_state(scratch)
        if found is None:
            return
        path, state = found
        different = differences(self.state.settings, state.settings)
        if different:
            self.report.log(f"train: a checkpoint of another {', '.join(different)} is ignored")
            return
        try:
            self.best = restore(path, self.trunk.parameters(), self.optimiser)
        except ValueError as error:
            self.report.log(f"train: a checkpoint is ignored: {error}")
            return
        self.state = state
        self.report.log(f"train: going on after step {state.step} of {self.schedule.total}")

    def _estimate(self, record: TrainingStep, total: int) -> None:
        left = (total - self.state.step) * record.seconds
        self.report.log(
            f"train: {total} steps of {self.plan.batch_size} rows, about {duration(left)} "
            f"at {record.tokens / record.seconds:,.0f} tokens/s, dev scores not counted"
        )

    def _outcome(self) -> Outcome:
        trained = [record for record in self.state.dev if record.step > 0]
        if trained and self.best:
            tensors, step = self.best, max(trained, key=lambda record: (record.ndcg10, -record.step)).step
        else:
            tensors, step = self.trunk.tensors(), self.state.step
        base = next((record.ndcg10 for record in self.state.dev if record.step == 0), None)
        return Outcome(
            state=self.state,
            tensors=tensors,
            best_step=step,
            base_dev=base,
            retained=self._retained,
            padded=1 - self._tokens / max(self._padded, 1),
        )
