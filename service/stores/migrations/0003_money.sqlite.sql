-- What each job costs, kept when the job itself is gone: these are the books. `standing` is how sure `amount` is.
CREATE TABLE charges (
    job INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    provider TEXT NOT NULL,
    operation TEXT NOT NULL,
    credential INTEGER NOT NULL,
    at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'unknown', 'succeeded', 'failed', 'canceled')),
    unit TEXT,
    amount TEXT, -- decimal text, never a number
    standing TEXT CHECK (standing IN ('reported', 'quoted', 'uncertain'))
);
CREATE INDEX charges_tenant ON charges (tenant, at);

-- The jobs that are here already, by the same rules.
INSERT INTO charges
SELECT
    num, tenant, provider, operation, credential, created_at,
    CASE WHEN status IN ('queued', 'submitting', 'processing') THEN 'open' ELSE status END,
    json_extract(CAST(detail AS TEXT), '$.cost.unit'),
    CASE
        WHEN json_extract(CAST(detail AS TEXT), '$.cost.source') = 'quoted' AND status IN ('failed', 'canceled')
            AND accepted_at IS NULL AND json_extract(CAST(detail AS TEXT), '$.late') IS NULL THEN '0'
        ELSE json_extract(CAST(detail AS TEXT), '$.cost.amount')
    END,
    CASE
        WHEN json_extract(CAST(detail AS TEXT), '$.cost.source') = 'quoted' AND (status = 'unknown'
            OR status IN ('failed', 'canceled') AND accepted_at IS NOT NULL
            AND json_extract(CAST(detail AS TEXT), '$.late') IS NULL) THEN 'uncertain'
        ELSE json_extract(CAST(detail AS TEXT), '$.cost.source')
    END
FROM jobs JOIN job_details ON job_details.job = jobs.num;

-- `used` is the sum of the charges of the period that began at `began_at`: reserved when a job is accepted.
CREATE TABLE budgets (
    tenant INTEGER NOT NULL REFERENCES tenants ON DELETE CASCADE,
    provider TEXT NOT NULL,
    unit TEXT NOT NULL,
    amount TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('month', 'total')),
    began_at INTEGER NOT NULL,
    used TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, provider)
) WITHOUT ROWID;

-- Kept for the jobs that name it; no new submit uses it.
ALTER TABLE credentials ADD COLUMN deleted_at INTEGER;
