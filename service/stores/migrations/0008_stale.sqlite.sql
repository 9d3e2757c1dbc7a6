-- What became of the same try on a connection that had been kept and was dead, before it was made on a new one.
ALTER TABLE attempts ADD COLUMN stale TEXT;
