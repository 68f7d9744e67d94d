"""What a task needs of Airflow around a wait."""
