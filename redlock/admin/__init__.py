"""For operators: node probes, cluster status, the doctor, bootstrap and forced release."""
