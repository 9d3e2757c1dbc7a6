-- What fell due first and last, whosever it is.
CREATE INDEX deliveries_due_at ON deliveries (due_at, lane) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_due_at ON jobs (work, due_at, credential) WHERE due_at IS NOT NULL;
