"""What tests share: waiting for conditions, real masters, jobs that misbehave, a logbook of real starts."""
