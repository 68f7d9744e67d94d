"""
The example DAGs, where Airflow 3.3 looks for those of a provider: in a package named as its distribution is.

With ``[core] load_examples`` on they are among Airflow's own. The provider itself is ``airflow_anon``.
"""
