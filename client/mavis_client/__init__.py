"""Python client, sync and async, for a MAVIS server: generate text steered by the weights you choose.

    from mavis_client import MavisClient

    with MavisClient("http://127.0.0.1:8000") as client:
        reply = client.chat("Tell me about rain.", objective_weights={"positivity": 1.0})
    print(reply.text, reply.values)

Runs in other people's programs: imports httpx and pydantic, nothing else.
"""

from mavis_client._async_client import AsyncMavisClient
from mavis_client._client import MavisClient
from mavis_client._connection import DEFAULT_TIMEOUT
from mavis_client._generation import AsyncGeneration, Generation
from mavis_client._keywords import (
    CallOptions,
    ChangeKeywords,
    ChatKeywords,
    CompletionKeywords,
    GuidanceKeywords,
    Messages,
    Prompt,
    SamplingKeywords,
    Timeout,
    Weights,
)
from mavis_client._stream import (
    AsyncChatStream,
    AsyncCompletionStream,
    AsyncStream,
    ChatStream,
    CompletionStream,
    Stream,
)
from mavis_client._version import __version__
from mavis_client.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    MavisError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    StreamError,
)
from mavis_client.generations import Effective, EffectiveChoice, GenerationChoice, GenerationState
from mavis_client.models import (
    CandidateTrace,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChoice,
    CompletionChunk,
    Mavis,
    Message,
    Steering,
    TokenTrace,
    ToolCall,
    Usage,
)
from mavis_client.objectives import Objective

__all__ = [
    "DEFAULT_TIMEOUT",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncChatStream",
    "AsyncCompletionStream",
    "AsyncGeneration",
    "AsyncMavisClient",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "CallOptions",
    "CandidateTrace",
    "ChangeKeywords",
    "ChatChoice",
    "ChatChunkChoice",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatKeywords",
    "ChatStream",
    "Completion",
    "CompletionChoice",
    "CompletionChunk",
    "CompletionKeywords",
    "CompletionStream",
    "ConflictError",
    "Effective",
    "EffectiveChoice",
    "Generation",
    "GenerationChoice",
    "GenerationState",
    "GuidanceKeywords",
    "Mavis",
    "MavisClient",
    "MavisError",
    "Message",
    "Messages",
    "NotFoundError",
    "Objective",
    "PermissionDeniedError",
    "Prompt",
    "ProtocolError",
    "RateLimitError",
    "SamplingKeywords",
    "ServerError",
    "Steering",
    "Stream",
    "StreamError",
    "Timeout",
    "TokenTrace",
    "ToolCall",
    "Usage",
    "Weights",
    "__version__",
]
