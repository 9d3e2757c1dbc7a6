-- Times are milliseconds since 1970 UTC. Columns named `sealed`, `secrets`, `target` are encrypted.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE tenants (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    secrets BLOB NOT NULL,
    endpoints_version INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE keys (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant INTEGER NOT NULL REFERENCES tenants,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    lookup TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
);

CREATE TABLE credentials (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants,
    provider TEXT NOT NULL,
    source TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant, provider, source)
);

-- Narrow: the loops scan it. What is only shown is in job_details.
CREATE TABLE jobs (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant INTEGER NOT NULL REFERENCES tenants,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    credential INTEGER NOT NULL REFERENCES credentials,
    status TEXT NOT NULL CHECK (status IN ('queued', 'submitting', 'processing', 'succeeded', 'failed', 'canceled', 'unknown')),
    reason TEXT,
    version INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    work TEXT CHECK (work IN ('submit', 'settle', 'poll')),
    due_at INTEGER,
    lease INTEGER,
    tries INTEGER NOT NULL,
    polls INTEGER NOT NULL,
    first_poll_at INTEGER,
    last_poll_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    submitted_at INTEGER,
    accepted_at INTEGER,
    finished_at INTEGER,
    deadline_at INTEGER,
    cancel_requested_at INTEGER,
    correlation TEXT NOT NULL,
    followed INTEGER NOT NULL,
    idempotency_key TEXT,
    fingerprint BLOB NOT NULL
);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_due ON jobs (work, credential, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_overdue ON jobs (deadline_at) WHERE status = 'queued' AND deadline_at IS NOT NULL;
CREATE INDEX jobs_tenant ON jobs (tenant);
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE work IS NULL AND finished_at IS NOT NULL;

CREATE TABLE job_details (
    job INTEGER PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    input BLOB,
    metadata TEXT NOT NULL,
    detail BLOB NOT NULL
);

-- (credential, provider job id) is unique: no two jobs can follow one piece of the provider's work.
CREATE TABLE provider_ids (
    credential INTEGER NOT NULL,
    provider_job_id TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (credential, provider_job_id)
) WITHOUT ROWID;
CREATE INDEX provider_ids_job ON provider_ids (job);

CREATE TABLE notes (
    num INTEGER PRIMARY KEY,
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX notes_job ON notes (job);

CREATE TABLE callbacks (
    num INTEGER PRIMARY KEY,
    job INTEGER REFERENCES jobs ON DELETE CASCADE,
    provider TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT,
    body BLOB NOT NULL
);
CREATE INDEX callbacks_job ON callbacks (job) WHERE job IS NOT NULL;
CREATE INDEX callbacks_rejected ON callbacks (provider) WHERE job IS NULL;

CREATE TABLE dedupe_keys (
    job INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key TEXT NOT NULL,
    PRIMARY KEY (job, key)
) WITHOUT ROWID;

CREATE TABLE endpoints (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant INTEGER NOT NULL REFERENCES tenants,
    status TEXT NOT NULL CHECK (status IN ('active', 'paused', 'disabled')),
    disabled_reason TEXT,
    target BLOB NOT NULL,
    secrets BLOB NOT NULL,
    event_types TEXT NOT NULL,
    filter TEXT NOT NULL,
    format TEXT NOT NULL,
    signature TEXT NOT NULL,
    rate REAL,
    timeout_s REAL,
    description TEXT,
    version INTEGER NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX endpoints_tenant ON endpoints (tenant);

-- AUTOINCREMENT on both: a number once seen by a cursor is never given to a later row.
CREATE TABLE events (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL REFERENCES tenants,
    job INTEGER REFERENCES jobs ON DELETE CASCADE,
    type TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    once TEXT,
    about INTEGER -- the endpoint that is never told, when it is sent again neither
);
CREATE UNIQUE INDEX events_once ON events (job, once) WHERE job IS NOT NULL; -- a NULL mark is unlike any other
CREATE INDEX events_tenant ON events (tenant);
CREATE INDEX events_jobless ON events (created_at) WHERE job IS NULL;

-- Integers only. status: 0 pending, 1 delivered, 2 failed, 3 canceled, 4 held. endpoint: 0 is the job's
-- callback_url, -1 the operator's. due_at doubles as the lease's end, so that one index serves retries and crashes.
CREATE TABLE deliveries (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    event INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
    endpoint INTEGER NOT NULL,
    tenant INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    status INTEGER NOT NULL,
    due_at INTEGER,
    lease INTEGER,
    attempts INTEGER NOT NULL,
    spent INTEGER NOT NULL, -- attempts made before it was last sent again
    created_at INTEGER NOT NULL,
    finished_at INTEGER,
    UNIQUE (event, endpoint)
);
CREATE INDEX deliveries_due ON deliveries (lane, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_held ON deliveries (endpoint) WHERE status = 4;
CREATE INDEX deliveries_tenant ON deliveries (tenant);

CREATE TABLE attempts (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery INTEGER NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status_code INTEGER,
    error TEXT,
    response BLOB NOT NULL
);
CREATE INDEX attempts_delivery ON attempts (delivery);
