"""Every bound and deadline of the server, in one place.

Each has a default that a public server can live with. Sizes are in bytes,
times in seconds. The settings may change any of them by its name here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MAY_BE_OFF", "Limits"]

MAY_BE_OFF: Final = frozenset(
    {
        "max_connections_per_address",
        "max_connections_per_user",
        "max_refusals",
        "publish_rate_per_address",
        "publish_rate_per_channel",
        "publish_rate_per_connection",
        "publish_rate_per_user",
    }
)
"""Limits that 0 switches off. All others are above 0."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and deadlines; see the comment beside each."""

    # -- what a peer may send ------------------------------------------------
    max_head_bytes: int = 32 * 1024
    """Request line and header fields together; more is answered 431."""
    max_headers: int = 100
    """Header fields in a request; more is answered 431 (nginx and Node take 100 to 2,000)."""
    max_body_bytes: int = 1024 * 1024
    """Body of a POST, and so the largest publication; more is answered 413."""
    max_message_bytes: int = 1024 * 1024
    """A WebSocket message, after inflating; more is closed with 1009."""
    max_fragments: int = 65_536
    """Fragments of one WebSocket message; more is closed with 1009."""
    max_pipelined_bytes: int = 64 * 1024
    """Bytes kept of requests that follow one still being answered; then reading pauses."""
    max_event_bytes: int = 128
    """An event name, in UTF-8."""
    max_tags: int = 16
    """Tags of one publication."""
    max_tag_bytes: int = 256
    """A tag's key and value together, in UTF-8."""
    max_idempotency_key_bytes: int = 255
    """An Idempotency-Key."""

    # -- how long a peer may take --------------------------------------------
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its head (408); also for the first byte of all."""
    body_timeout_s: float = 30.0
    """From the end of the head to the end of the body (408)."""
    tls_handshake_timeout_s: float = 10.0
    keep_alive_timeout_s: float = 75.0
    """An idle connection between two requests."""
    stall_timeout_s: float = 180.0
    """A reader that has taken no byte at all, while bytes are waiting for it."""
    close_timeout_s: float = 5.0
    """For the peer's answer to our close frame, or to take the last bytes of an answer."""

    # -- how many -------------------------------------------------------------
    max_connections: int = 20_000
    """Open connections of one process; more are answered 503 and closed."""
    max_channels_per_request: int = 32
    max_channels: int = 100_000
    """Channels that the memory broker holds, with the number of watched ones beside it."""
    max_page_publications: int = 1_000
    """Publications in one answer, and the default of ``limit=``."""
    max_page_bytes: int = 1024 * 1024
    """Bytes of publications in one answer."""
    max_wait_s: float = 60.0
    """The longest that a long poll is held."""

    # -- who comes --------------------------------------------------------------
    max_token_bytes: int = 16 * 1024
    """A token, ticket, API key or other credential."""
    max_url_token_s: float = 60.0
    """A token in a URL, where logs and histories keep it, must end within this time."""
    token_leeway_s: float = 5.0
    """How far the clock of a token's issuer may be ahead (``nbf``, ``iat``); ``exp`` counts to the second."""
    max_grants: int = 128
    """Channels, and patterns for each action, that one credential may bring."""
    ticket_ttl_s: float = 30.0
    """A ticket's life; it is used once."""
    judgement_ttl_s: float = 30.0
    """How long it is remembered who somebody is, and what was decided that they may do."""
    max_judgements: int = 20_000
    """Credentials that are remembered."""
    max_decisions: int = 100_000
    """Decisions of the application that are remembered."""
    max_judging: int = 10_000
    """Questions to the application and to the store that are not answered yet; then 503."""
    hook_timeout_s: float = 10.0
    """For one answer of the application."""
    judging_timeout_s: float = 25.0
    """For all that must be asked before a request may pass; then 503."""
    answer_timeout_s: float = 15.0
    """For an answer that the store has to be asked for; then 503."""
    tickets_per_minute: int = 60
    """Tickets that one user may ask one process for; more are answered 429."""
    max_revocations: int = 100_000
    """Blocked users and revoked tokens that this process remembers; the store remembers all."""
    max_revocation_s: float = 10 * 365 * 86_400.0
    """What is revoked for good is revoked so long."""
    jwks_timeout_s: float = 5.0
    """For fetching the keys that sign tokens."""
    max_jwks_bytes: int = 256 * 1024
    max_jwks_keys: int = 64
    jwks_age_s: float = 300.0
    """How old fetched keys may grow before they are fetched again."""
    jwks_interval_s: float = 10.0
    """Between two fetches, however many tokens name a key that is not known."""

    # -- how many and how fast one may --------------------------------------------
    # None of these count in development mode, nor for whoever has an API key. Each is for this node.
    # Addresses of this machine are never counted: they stand for a proxy that is not trusted.
    max_connections_per_address: int = 1_000
    """Long-lived connections of one address (of an IPv6 network of 64 bits), waiting long polls among them;
    more are refused. 0 is no bound."""
    max_connections_per_user: int = 100
    """Long-lived connections of one user on this node. 0 is no bound."""
    publish_rate_per_connection: float = 50.0
    """Publications a second from one connection (by POST: from one user at one address); faster ones are
    refused (429). 0 is no bound, here and for the other rates."""
    publish_burst_per_connection: int = 100
    """Publications that may come at once, after a pause."""
    publish_rate_per_user: float = 100.0
    """Publications a second of one user over all connections to this node."""
    publish_burst_per_user: int = 200
    """The same at once, after a pause."""
    publish_rate_per_address: float = 500.0
    """Publications a second of one address, whoever is behind it and however often they connect anew."""
    publish_burst_per_address: int = 1_000
    """The same at once, after a pause."""
    publish_rate_per_channel: float = 1_000.0
    """Publications a second of clients to one channel through this node."""
    publish_burst_per_channel: int = 2_000
    """The same at once, after a pause."""
    max_refusals: int = 200
    """Publications in a row that were refused for being too fast; then the connection is closed (3013).
    0 never closes one."""
    max_quota_keys: int = 100_000
    """Connections, users, addresses and channels whose rates are remembered, each."""
    max_publishing: int = 256
    """Publications of one client that wait for the application's word; then its input is paused, and above
    twice as many are refused (124)."""
    max_publishing_bytes: int = 64 * 1024 * 1024
    """The same in bytes, of all clients together; more are refused (124)."""

    # -- memory ---------------------------------------------------------------
    log_budget_bytes: int = 128 * 1024 * 1024
    """All logs and tails of a process together; the least recently used are trimmed first."""
    max_write_bytes: int = 64 * 1024
    """One joined write: all that may hang on a reader's socket in this process."""
    notsent_lowat_bytes: int = 32 * 1024
    """Unsent bytes that the kernel takes per socket (``TCP_NOTSENT_LOWAT``)."""
    max_fresh_bytes: int = 4 * 1024 * 1024
    """Publications of one channel that wait for the fan-out of slower slices."""
    max_unfinished_appends: int = 1_024
    """Appends on their way to the broker's store; then publishers' input is paused."""
    max_idempotency_keys: int = 100_000
    idempotency_ttl_s: float = 300.0
    max_stored_keys: int = 100_000
    """Entries of the broker's key-value store."""

    # -- presence, and what travels between nodes ----------------------------------
    presence_ttl_s: float = 60.0
    """A member of which nothing was heard for so long is gone; renewed at most every third of it."""
    leave_debounce_s: float = 2.0
    """A member that comes back so soon has not left, as far as others are told."""
    max_leases: int = 250_000
    """Members of all channels together that the memory broker holds."""
    max_presence_members: int = 1_000
    """Members in one answer; what is left out is told."""
    max_roster_members: int = 10_000
    """Members of a channel whose joins and leaves are told one by one; beyond it, that there were some."""
    max_presence_tells_per_s: int = 20_000
    """Joins and leaves times listeners, per channel and node; beyond it, that there were some."""
    node_ttl_s: float = 15.0
    """A node of which nothing was heard for so long is gone, and with it who is connected to it."""
    node_answer_timeout_s: float = 2.0
    """For another node to answer."""
    relay_connect_timeout_s: float = 2.0
    """For a connection to another node's private address; then the node counts as gone."""
    relay_silence_s: float = 90.0
    """How long another node may say nothing to a request that was forwarded to it; longer than the pings and
    heartbeats of Engine.IO and SockJS are apart."""
    canary_interval_s: float = 2.0
    """Between two messages that a node sends to itself through the broker's engine."""
    canary_timeout_s: float = 3.0
    """For such a message to come back; then the node is not ready, and makes its link anew."""
    broker_timeout_s: float = 5.0
    """For an answer of the broker's engine; then the publisher gets an error."""
    publish_timeout_s: float = 10.0
    """For what ``everywire.publish`` was given to stand; then its caller gets an error. A process that ends
    or forks waits as long for what it has begun."""
    store_budget_bytes: int = 1024 * 1024 * 1024
    """All logs in SQLite's file together; the least recently used are trimmed first."""

    # -- the server API --------------------------------------------------------------
    max_api_commands: int = 1_000
    """Commands of a batch, and channels of a broadcast."""
    api_timeout_s: float = 30.0
    """For one request, a whole batch included; then 503."""
    max_listed_channels: int = 10_000
    """Channels that a node lists; what is left out is told."""

    # -- sessions -----------------------------------------------------------------
    connect_timeout_s: float = 15.0
    """For the connect command of a session, and for its client to go after a refused one; then 3502."""
    ping_interval_s: float = 25.0
    """Between two pings of a session; whole seconds are what clients are told."""
    pong_timeout_s: float = 8.0
    """For a client to answer a ping; then 3012. Less than the interval."""
    max_session_channels: int = 128
    """Channels of one session; more are error 106."""
    max_batch_commands: int = 1_000
    """Commands in one message of a client; more are 3501."""
    max_pending_commands: int = 256
    """Commands of one session that are not answered yet; then its input is paused, and at four times as many
    the session ends (3013)."""
    max_pending_bytes: int = 1024 * 1024
    """The same in bytes of their data."""
    max_session_queue_bytes: int = 256 * 1024
    """Replies, joins and pushes that wait for a session's socket; then its input is paused, and at twice as
    much the session ends (3008). Publications wait in the log."""
    max_recovery_publications: int = 300
    """Publications in a subscribe reply; what follows them comes as pushes."""
    max_recovery_bytes: int = 256 * 1024
    """The same in bytes; some clients take no message above 1 MiB."""
    max_history_publications: int = 300
    """Publications in a history reply."""
    expiry_notice_s: float = 15.0
    """How long beforehand a session is told that its credential runs out."""
    expiry_grace_s: float = 25.0
    """How long a credential may have run out until its session (3005) or subscription (2501) ends."""
    recheck_s: float = 60.0
    """How often it is asked again whether what a session has open may stay so."""
    max_ticks: int = 3
    """Numbered pushes behind a connect reply, by which a client recognises a proxy that holds back."""
    tick_interval_s: float = 0.15

    # -- Socket.IO and SockJS -----------------------------------------------------
    max_socket_namespaces: int = 32
    """Namespaces of one Socket.IO connection; more are refused."""
    max_socket_refusals: int = 32
    """Refused connects of one connection one after the other, to whatever namespaces; then it is closed."""
    max_socket_rooms: int = 64
    """Rooms of one Socket.IO client in one namespace, besides its own."""
    max_recoverable_sockets: int = 20_000
    """Socket.IO clients that were cut off and may come back to this process as who they were; then the one
    that went first cannot any more."""
    max_recovery_state_bytes: int = 64 * 1024
    """What is kept of one that was cut off; one with more is a new one when it comes back."""
    max_socket_attachments: int = 10
    """Binary attachments of one packet of a Socket.IO client."""
    socket_packet_timeout_s: float = 30.0
    """For the next attachment of a packet to come; then its Socket.IO client is closed."""
    max_incomplete_bytes: int = 64 * 1024 * 1024
    """Packets of one mount of Socket.IO whose attachments are still to come, all together; beyond that those
    clients are closed that were heard of longest ago. One packet has at most twice ``max_payload``."""
    max_socket_acks: int = 256
    """Events of the server that one Socket.IO client has not acknowledged yet; no more are sent to it."""
    socket_ack_timeout_s: float = 60.0
    """For a Socket.IO client to acknowledge an event of the server, where nobody says how long."""
    max_sockjs_sessions: int = 20_000
    """SockJS sessions over HTTP of one mount on this node, those included that wait for their client; more
    are answered 503."""
    max_engines: int = 20_000
    """Engine.IO connections of one mount on this node, those that poll included; more are answered 503."""
    max_payload_packets: int = 10_000
    """Packets in one POST of an Engine.IO client; more end its connection. Its bytes are what bounds it."""
    max_sockjs_messages: int = 10_000
    """Messages that a SockJS client sends at once."""
    sockjs_response_bytes: int = 128 * 1024
    """How much one streamed answer of SockJS carries, which browsers keep whole; then the client returns."""
    sockjs_heartbeat_s: float = 25.0
    """Between two heartbeats of SockJS."""
    sockjs_disconnect_delay_s: float = 5.0
    """How long a SockJS session waits for its client to ask again, and tells why it ended."""

    # -- the application's functions ------------------------------------------------
    call_timeout_s: float = 60.0
    """For the handler of an rpc or a message to be done."""
    max_handler_threads: int = 16
    """Threads that the application's synchronous functions run in."""
    max_calling_bytes: int = 64 * 1024 * 1024
    """Data of calls and messages whose handlers are not done, and 1 KiB for each, of all clients together and
    of those that have left; more are refused (124; for a message 3013)."""
    max_waiting_calls: int = 1_000
    """Calls of synchronous functions that wait for a thread; more are answered 111."""
    max_runs: int = 1_000
    """Producers that run in this process at a time."""
    max_run_bytes: int = 4 * 1024 * 1024
    """Data of one run, all together; a run that makes more fails, and its readers are told."""
    max_run_publications: int = 50_000
    """Publications of one run."""
    max_run_s: float = 3_600.0
    """How long one run may take."""
    run_grace_s: float = 300.0
    """How long a run is kept after its end."""
    run_lease_s: float = 30.0
    """A run whose process was not heard of for so long is over; renewed every third of it."""
    max_kept_share: float = 0.5
    """Share of the log budget that runs may hold together; of those that ended the oldest goes first."""

    # -- workers ------------------------------------------------------------------
    worker_start_timeout_s: float = 30.0
    """For a worker to say that it listens; then it is ended, and another one is started."""
    worker_restart_s: float = 5.0
    """The longest wait until a worker that died young is started again."""
    worker_orphan_s: float = 2.0
    """How long readers may take to leave a worker whose parent is gone."""
    worker_figures_s: float = 2.0
    """How often a worker tells its parent what it has counted, for when it is killed."""

    # -- the rhythm -------------------------------------------------------------
    sse_retry_ms: int = 2_000
    """The ``retry:`` that an SSE reader is given at the start."""
    max_stream_age_s: float = 3_600.0
    """An SSE or NDJSON answer ends after this, less a random fifth, so that load re-balances."""
    slice_s: float = 0.005
    """Fan-out gives the event loop back after this long."""
    drain_jitter_ms: int = 5_000
    """Readers are told at shutdown to come back after a random time up to this."""
