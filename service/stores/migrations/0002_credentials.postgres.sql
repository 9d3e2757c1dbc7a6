-- A credential that its provider refuses is paused: what is queued for it waits until it is changed.
ALTER TABLE credentials ADD COLUMN paused_at BIGINT;
ALTER TABLE credentials ADD COLUMN paused_reason TEXT;

-- How many jobs a credential has at its provider.
CREATE INDEX jobs_running ON jobs (credential) WHERE status IN ('submitting', 'processing');
