"""Tests of embedfit.evaluation."""
