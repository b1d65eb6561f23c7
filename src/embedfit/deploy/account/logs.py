"""The last lines that an endpoint's container printed."""

from __future__ import annotations

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.redaction import redact
from embedfit.deploy.account.sagemaker import log_group_of
from embedfit.network.aws import aws_exceptions, is_absent

_LINES = 200


def log_tail(aws: Aws, endpoint: str) -> tuple[str, ...]:
    """The newest lines of the newest log stream, oldest first, without secrets; empty if there is no log."""
    logs = aws.client("logs")
    group = log_group_of(endpoint)
    try:
        streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        if not streams["logStreams"]:
            return ()
        events = logs.get_log_events(
            logGroupName=group,
            logStreamName=streams["logStreams"][0]["logStreamName"],
            limit=_LINES,
            startFromHead=False,
        )
    except aws_exceptions() as error:
        if is_absent(error):
            return ()
        raise
    return tuple(redact(event["message"].rstrip("\n")) for event in events["events"])
