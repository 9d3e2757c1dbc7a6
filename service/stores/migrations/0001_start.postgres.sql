-- Times are milliseconds since 1970 UTC. Columns named `sealed`, `secrets`, `target` are encrypted.
-- Jobs, events and deliveries are numbered by their transaction (postgres_rows.py), the rest by sequences.
-- What stands between /* partitioned: and :partitioned */ is left out where partitioning is switched off.
-- Differs from SQLite because a reference from a hot table to its tenant would lock that tenant's row in every
-- transaction of every node: only what is deleted together is tied together.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITH (fillfactor = 50);

-- One row per transaction that wrote: who lost the answer to a COMMIT finds here whether it happened.
CREATE TABLE commits (token BIGINT PRIMARY KEY, at BIGINT NOT NULL);
CREATE INDEX commits_at ON commits (at);

CREATE TABLE tenants (
    num BIGSERIAL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    secrets BYTEA NOT NULL,
    endpoints_version BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE keys (
    num BIGSERIAL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant BIGINT NOT NULL REFERENCES tenants,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    lookup TEXT NOT NULL UNIQUE,
    digest BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);

CREATE TABLE credentials (
    num BIGSERIAL PRIMARY KEY,
    tenant BIGINT NOT NULL REFERENCES tenants,
    provider TEXT NOT NULL,
    source TEXT NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (tenant, provider, source)
);

-- Narrow: the loops scan it. What is only shown is in job_details.
CREATE TABLE jobs (
    num BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant BIGINT NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    credential BIGINT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'submitting', 'processing', 'succeeded', 'failed', 'canceled', 'unknown')),
    reason TEXT,
    version BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    work TEXT CHECK (work IN ('submit', 'settle', 'poll')),
    due_at BIGINT,
    lease BIGINT,
    tries BIGINT NOT NULL,
    polls BIGINT NOT NULL,
    first_poll_at BIGINT,
    last_poll_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    submitted_at BIGINT,
    accepted_at BIGINT,
    finished_at BIGINT,
    deadline_at BIGINT,
    cancel_requested_at BIGINT,
    correlation TEXT NOT NULL,
    followed BIGINT NOT NULL,
    idempotency_key TEXT,
    fingerprint BYTEA NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_due ON jobs (work, credential, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_overdue ON jobs (deadline_at) WHERE status = 'queued' AND deadline_at IS NOT NULL;
CREATE INDEX jobs_tenant ON jobs (tenant, num);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE work IS NULL AND finished_at IS NOT NULL;

CREATE TABLE job_details (
    job BIGINT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    input BYTEA,
    metadata TEXT NOT NULL,
    detail BYTEA NOT NULL
) WITH (fillfactor = 80);

-- (credential, provider job id) is unique: no two jobs can follow one piece of the provider's work.
CREATE TABLE provider_ids (
    credential BIGINT NOT NULL,
    provider_job_id TEXT NOT NULL,
    job BIGINT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (credential, provider_job_id)
);
CREATE INDEX provider_ids_job ON provider_ids (job);

CREATE TABLE notes (
    num BIGSERIAL PRIMARY KEY,
    job BIGINT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    data BYTEA NOT NULL
);
CREATE INDEX notes_job ON notes (job);

CREATE TABLE callbacks (
    num BIGSERIAL,
    job BIGINT,
    provider TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT,
    body BYTEA NOT NULL,
    PRIMARY KEY (num, received_at)
) /* partitioned: PARTITION BY RANGE (received_at) :partitioned */;
CREATE INDEX callbacks_job ON callbacks (job) WHERE job IS NOT NULL;
CREATE INDEX callbacks_rejected ON callbacks (provider, num) WHERE job IS NULL;

CREATE TABLE dedupe_keys (
    job BIGINT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key TEXT NOT NULL,
    PRIMARY KEY (job, key)
);

CREATE TABLE endpoints (
    num BIGSERIAL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant BIGINT NOT NULL REFERENCES tenants,
    status TEXT NOT NULL CHECK (status IN ('active', 'paused', 'disabled')),
    disabled_reason TEXT,
    target BYTEA NOT NULL,
    secrets BYTEA NOT NULL,
    event_types TEXT NOT NULL,
    filter TEXT NOT NULL,
    format TEXT NOT NULL,
    signature TEXT NOT NULL,
    rate DOUBLE PRECISION,
    timeout_s DOUBLE PRECISION,
    description TEXT,
    version BIGINT NOT NULL,
    deleted BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX endpoints_tenant ON endpoints (tenant, num);

CREATE TABLE events (
    num BIGINT PRIMARY KEY,
    tenant BIGINT NOT NULL,
    job BIGINT REFERENCES jobs ON DELETE CASCADE,
    type TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    once TEXT,
    about BIGINT -- the endpoint that is never told, when it is sent again neither
);
CREATE UNIQUE INDEX events_once ON events (job, once) WHERE job IS NOT NULL; -- a NULL mark is unlike any other
CREATE INDEX events_tenant ON events (tenant, num);
CREATE INDEX events_jobless ON events (created_at) WHERE job IS NULL;

CREATE TABLE event_bodies (
    event BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (event, created_at)
) /* partitioned: PARTITION BY RANGE (created_at) :partitioned */;

-- Integers only. status: 0 pending, 1 delivered, 2 failed, 3 canceled, 4 held. endpoint: 0 is the job's
-- callback_url, -1 the operator's. due_at doubles as the lease's end, so that one index serves retries and crashes.
CREATE TABLE deliveries (
    num BIGINT PRIMARY KEY,
    event BIGINT NOT NULL REFERENCES events ON DELETE CASCADE,
    endpoint BIGINT NOT NULL,
    tenant BIGINT NOT NULL,
    lane BIGINT NOT NULL,
    due_at BIGINT,
    lease BIGINT,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    status SMALLINT NOT NULL,
    attempts INTEGER NOT NULL,
    spent INTEGER NOT NULL, -- attempts made before it was last sent again
    UNIQUE (event, endpoint)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX deliveries_due ON deliveries (lane, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_held ON deliveries (endpoint, created_at) WHERE status = 4;
CREATE INDEX deliveries_tenant ON deliveries (tenant, num);

CREATE TABLE attempts (
    num BIGSERIAL,
    delivery BIGINT NOT NULL,
    number INTEGER NOT NULL,
    at BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    status_code INTEGER,
    error TEXT,
    response BYTEA NOT NULL,
    PRIMARY KEY (num, at)
) /* partitioned: PARTITION BY RANGE (at) :partitioned */;
CREATE INDEX attempts_delivery ON attempts (delivery);
