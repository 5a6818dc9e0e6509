"""Create the tables of the fence."""

from django.db import migrations, models

from redlock.fencing.django.models import ExactTextField


class Migration(migrations.Migration):  # type: ignore[misc]  # Django has no types
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="Fence",
            fields=[
                (
                    "resource",
                    ExactTextField(max_length=1024, primary_key=True, serialize=False),
                ),
                ("token", models.BigIntegerField()),
                ("owner", models.CharField(max_length=64)),
                ("section", models.BigIntegerField()),
                ("at", models.DateTimeField()),
            ],
            options={
                "db_table": "redlock_fence",
            },
        ),
        migrations.CreateModel(
            name="Operation",
            fields=[
                (
                    "operation_id",
                    ExactTextField(max_length=255, primary_key=True, serialize=False),
                ),
                ("at", models.DateTimeField(db_index=True)),
            ],
            options={
                "db_table": "redlock_operation",
            },
        ),
    ]
