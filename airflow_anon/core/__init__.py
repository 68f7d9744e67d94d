"""Every decision of a wait. No I/O, no clock, no log, no Airflow."""
