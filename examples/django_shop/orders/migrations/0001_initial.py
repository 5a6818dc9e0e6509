"""Create the table of the orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As `manage.py makemigrations` wrote it."""

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("state", models.CharField(default="open", max_length=10)),
            ],
        ),
    ]
