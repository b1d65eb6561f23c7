"""The records of all files of a run folder.

A line of a JSONL file is a frozen dataclass, because there may be millions; a file of one JSON value is a `Whole`.
embedfit.path.workspace reads and writes both, and pydantic checks them on reading.
"""

from embedfit.path.artefacts.adapted import AdaptData as AdaptData
from embedfit.path.artefacts.adapted import AdaptDecision as AdaptDecision
from embedfit.path.artefacts.adapted import Adapted as Adapted
from embedfit.path.artefacts.adapted import AdaptEvidence as AdaptEvidence
from embedfit.path.artefacts.assessed import Assessed as Assessed
from embedfit.path.artefacts.assessed import AssessedRow as AssessedRow
from embedfit.path.artefacts.assessed import Outlook as Outlook
from embedfit.path.artefacts.chosen import Against as Against
from embedfit.path.artefacts.chosen import ChoiceEvidence as ChoiceEvidence
from embedfit.path.artefacts.chosen import ChosenCandidate as ChosenCandidate
from embedfit.path.artefacts.chosen import ChosenRetriever as ChosenRetriever
from embedfit.path.artefacts.chosen import TuningEvidence as TuningEvidence
from embedfit.path.artefacts.chosen import Verdict as Verdict
from embedfit.path.artefacts.golden import GoldenText as GoldenText
from embedfit.path.artefacts.golden import GoldenVectors as GoldenVectors
from embedfit.path.artefacts.results import Comparison as Comparison
from embedfit.path.artefacts.results import Cost as Cost
from embedfit.path.artefacts.results import Counts as Counts
from embedfit.path.artefacts.results import Decision as Decision
from embedfit.path.artefacts.results import Evaluation as Evaluation
from embedfit.path.artefacts.results import MeasuredRetriever as MeasuredRetriever
from embedfit.path.artefacts.results import Outcome as Outcome
from embedfit.path.artefacts.results import Ranked as Ranked
from embedfit.path.artefacts.results import ShownPassage as ShownPassage
from embedfit.path.artefacts.results import Slice as Slice
from embedfit.path.artefacts.results import Storage as Storage
from embedfit.path.artefacts.results import Summary as Summary
from embedfit.path.artefacts.results import System as System
from embedfit.path.artefacts.rows import ASKED as ASKED
from embedfit.path.artefacts.rows import Document as Document
from embedfit.path.artefacts.rows import DocumentStatus as DocumentStatus
from embedfit.path.artefacts.rows import DroppedPassage as DroppedPassage
from embedfit.path.artefacts.rows import Grade as Grade
from embedfit.path.artefacts.rows import Judgement as Judgement
from embedfit.path.artefacts.rows import Manifest as Manifest
from embedfit.path.artefacts.rows import Metadata as Metadata
from embedfit.path.artefacts.rows import Passage as Passage
from embedfit.path.artefacts.rows import Pooled as Pooled
from embedfit.path.artefacts.rows import Query as Query
from embedfit.path.artefacts.rows import QuerySplit as QuerySplit
from embedfit.path.artefacts.rows import Score as Score
from embedfit.path.artefacts.rows import Split as Split
from embedfit.path.artefacts.rows import TrainingStep as TrainingStep
from embedfit.path.artefacts.rows import TrainRow as TrainRow
from embedfit.path.artefacts.rows import Value as Value
from embedfit.path.artefacts.rows import written as written
from embedfit.path.artefacts.tuning import CheckedPair as CheckedPair
from embedfit.path.artefacts.tuning import CheckResult as CheckResult
from embedfit.path.artefacts.tuning import DevScore as DevScore
from embedfit.path.artefacts.tuning import DevScores as DevScores
from embedfit.path.artefacts.tuning import MergeDecision as MergeDecision
from embedfit.path.artefacts.tuning import MergeEvidence as MergeEvidence
from embedfit.path.artefacts.tuning import MergeSweep as MergeSweep
from embedfit.path.artefacts.tuning import Separation as Separation
from embedfit.path.artefacts.tuning import SweepPoint as SweepPoint
from embedfit.path.artefacts.tuning import TrainingLog as TrainingLog
from embedfit.path.artefacts.whole import METRIC as METRIC
from embedfit.path.artefacts.whole import Interval as Interval
from embedfit.path.artefacts.whole import Schema as Schema
from embedfit.path.artefacts.whole import Ship as Ship
from embedfit.path.artefacts.whole import ShippedModel as ShippedModel
from embedfit.path.artefacts.whole import Whole as Whole
