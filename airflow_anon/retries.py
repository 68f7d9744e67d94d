"""Which errors of a wait are worth another try, as a ready-made ``retry_policy``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_3_PLUS

from airflow_anon.exceptions import AnonError, AnonUnavailableError, AnonUnreadableConnectionError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ExceptionRetryPolicy


def anon_retry_policy(retry_delay: timedelta = timedelta(minutes=5)) -> ExceptionRetryPolicy:
    """
    Return a policy that retries what may pass, and nothing else of this package's errors.

    Lost contact, and a connection that could not be read just now, are retried after *retry_delay*
    as long as the task has ``retries`` left. Every other :class:`~airflow_anon.exceptions.AnonError`,
    such as a refused credential, fails the task at once. Errors of others are retried as Airflow
    would without a policy. A failed run and a timeout never get as far as a policy: Airflow itself
    does not retry them.

    :param retry_delay: the pause before the next try.
    :raises RuntimeError: this version of Airflow has no retry policies (3.3 and later have).
    """
    if not AIRFLOW_V_3_3_PLUS:  # pragma: no cover  tested before Airflow 3.3
        raise RuntimeError(
            "anon_retry_policy() needs Airflow 3.3 or later, the first with retry_policy. Set retries and retry_delay "
            "of the task instead: a failed run and a timeout are not retried there either, while all other "
            "errors are, a refused credential among them."
        )
    from airflow.providers.common.compat.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    return ExceptionRetryPolicy(
        [
            RetryRule(
                [AnonUnavailableError, AnonUnreadableConnectionError],
                RetryAction.RETRY,
                retry_delay=retry_delay,
                reason="The state of the workflow run is unknown: it is asked for again",
            ),
            RetryRule(AnonError, RetryAction.FAIL, reason="Another try would meet the same"),
        ]
    )
