"""The demo: the whole path on documents and people's questions that the package carries, offline, in minutes."""

from embedfit.commands.demo.result import DemoResult as DemoResult
from embedfit.commands.demo.tour import demo as demo
