"""Package metadata, read from settings.ini (the one place where it is kept)."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def words(key):
    return settings.get(key, "").split()


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    keywords=words("keywords"),
    license="Apache-2.0",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    classifiers=["Framework :: Jupyter", "Programming Language :: Python :: 3",
                 "Topic :: Scientific/Engineering :: Bio-Informatics"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=[settings["lib_path"], settings["lib_path"] + ".*"]),
    include_package_data=True,
    install_requires=words("requirements"),
    extras_require={"lab": words("lab_requirements"), "dev": words("dev_requirements")},
    python_requires=">=" + settings["min_python"],
    entry_points={"console_scripts": words("console_scripts"),
                  "nbdev": [f'{settings["lib_path"]}={settings["lib_path"]}._modidx:d']},
    zip_safe=False,
)
