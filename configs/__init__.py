"""Every config, those of the experiments too; `--config=e2e` names one. Once installed, this is `hut_jax.configs`."""
