-- What fell due first and last, whosever it is. Each condition beside due_at holds for every such row, and is there so
-- that no statement uses these indexes but one that repeats it: a claim of one lane's rows must never walk all others.
CREATE INDEX deliveries_due_at ON deliveries (due_at, lane) WHERE due_at IS NOT NULL AND status = 0;
CREATE INDEX jobs_due_at ON jobs (work, due_at, credential) WHERE due_at IS NOT NULL AND credential > 0;
