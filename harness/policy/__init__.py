"""The gate's rules, and the baselines that runs are judged against."""
