"""What trains, evaluates and promotes the models; only ``registry.py`` knows MLflow."""
