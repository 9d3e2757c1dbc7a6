-- What each job costs, kept when the job itself is gone: these are the books. `standing` is how sure `amount` is.
-- Differs from SQLite because no PostgreSQL database is older than this: no job is there without its charge.
CREATE TABLE charges (
    job BIGINT PRIMARY KEY,
    tenant BIGINT NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    credential BIGINT NOT NULL,
    at BIGINT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'unknown', 'succeeded', 'failed', 'canceled')),
    unit TEXT,
    amount TEXT, -- decimal text, never a number
    standing TEXT CHECK (standing IN ('reported', 'quoted', 'uncertain'))
) WITH (fillfactor = 80);
CREATE INDEX charges_tenant ON charges (tenant, at);

-- `used` is the sum of the charges of the period that began at `began_at`: reserved when a job is accepted.
CREATE TABLE budgets (
    tenant BIGINT NOT NULL REFERENCES tenants ON DELETE CASCADE,
    provider TEXT NOT NULL,
    unit TEXT NOT NULL,
    amount TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('month', 'total')),
    began_at BIGINT NOT NULL,
    used TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, provider)
) WITH (fillfactor = 50);

-- Kept for the jobs that name it; no new submit uses it.
ALTER TABLE credentials ADD COLUMN deleted_at BIGINT;
