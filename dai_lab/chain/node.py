"""A node, asked over HTTP: questions, answers, and errors that give nothing away."""

from __future__ import annotations

import logging
import sys
from typing import Any
from urllib.parse import urlsplit

TALKATIVE = (
    "web3.providers.HTTPProvider",
    "web3._utils.http_session_manager.HTTPSessionManager",
    "urllib3.connectionpool",
)
"""They write whole URLs into logs for debugging."""


def keep_shallow() -> None:
    """Import what raises Python's limit of recursion for the whole process, and put it back.

    ``py_ecc``, below eth-account and web3, sets it to 100,000. Brackets nested so deep, in a node's
    answer or a file, would then overrun the stack and end the process instead of being an error.
    """
    limit = sys.getrecursionlimit()
    import eth_account  # noqa: F401

    sys.setrecursionlimit(limit)


class Refusal(ValueError):  # noqa: N818 (it says what happened)
    """A node that answers with an error.

    Args:
        url: Which node, as it may be shown.
        message: What it says.
        data: What a contract gave back as it refused, where that is the reason.
    """

    def __init__(self, url: str, message: str, data: bytes | None) -> None:
        super().__init__(f"chain.url={url}: {message}")
        self.data = data


class Node:
    """A node at a URL of which only the beginning is ever shown."""

    def __init__(self, url: str) -> None:
        """Look at the URL; nothing is asked yet.

        Raises:
            ValueError: It is not of http or https.
        """
        import requests

        keep_shallow()
        from web3 import HTTPProvider
        from web3.providers.rpc.utils import ExceptionRetryConfiguration

        try:
            parts = urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            raise ValueError("chain.url is no URL") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("chain.url: give one that begins with http:// or https:// and a host")
        self.shown = f"{parts.scheme}://{parts.hostname}{port}"
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO)
        # What is sent twice is in a block once: a transaction has a number and a hash.
        again = ExceptionRetryConfiguration(
            (requests.ConnectionError, requests.Timeout), retries=3, backoff_factor=0.1
        )
        self._silent = (requests.RequestException, OSError)
        self._provider = HTTPProvider(
            url, request_kwargs={"timeout": 30}, exception_retry_configuration=again
        )

    def __repr__(self) -> str:
        return f"Node({self.shown})"

    def ask(self, method: str, *params: Any) -> Any:
        """Ask, and give the result.

        Raises:
            ValueError: The node answers with an error, with nothing, or not at all.
        """
        from web3.types import RPCEndpoint

        try:
            answer = self._provider.make_request(RPCEndpoint(method), list(params))
        except self._silent as problem:
            # Their messages hold the URL.
            kind = type(problem).__name__
            raise ValueError(f"chain.url={self.shown} gives no answer ({kind})") from None
        except (ValueError, RecursionError):
            raise ValueError(f"chain.url={self.shown} is no node: it answers no JSON") from None
        if not isinstance(answer, dict):
            raise ValueError(f"chain.url={self.shown} is no node: it answers no object")
        error = answer.get("error")
        if error is None and "result" in answer:
            return answer["result"]
        if not isinstance(error, dict):
            raise ValueError(f"chain.url={self.shown} is no node: it answers {method} with neither")
        message = " ".join(str(error.get("message", "an error")).split())[:200]
        raise Refusal(self.shown, message, given_back(error.get("data")))


def given_back(data: Any) -> bytes | None:
    """Find what a contract gave back in what nodes call ``data``."""
    if isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return None
    return None
