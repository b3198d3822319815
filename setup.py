"""Package metadata, read from settings.ini (the one place where it is kept)."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
name, address, branch = settings["lib_name"], settings["git_url"], settings["branch"]


def words(key):
    return settings.get(key, "").split()


def readme():
    "README.md with addresses in place of relative links, for a page that is not beside the files."
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\1{address}/raw/{branch}/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!\w+:|#)", rf"\1{address}/blob/{branch}/", text)


extras = {extra: words(f"{extra}_requirements") for extra in ("lab", "images", "cluster", "docs", "dev")}
extras["dev"] += extras["lab"] + extras["cluster"] + extras["docs"]
setup(
    name=name,
    version=settings["version"],
    description=settings["description"],
    keywords=words("keywords"),
    license="Apache-2.0",
    author=settings["author"],
    author_email=settings["author_email"],
    url=address,
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"], "Source": address, "Issues": f"{address}/issues",
                  "Changelog": f"{address}/blob/{branch}/CHANGELOG.md"},
    classifiers=["Development Status :: 3 - Alpha", "Framework :: Jupyter", "Intended Audience :: Science/Research", "Operating System :: OS Independent",
                 "Programming Language :: Python :: 3", *(f"Programming Language :: Python :: {version}" for version in words("tested_python")),
                 "Topic :: Scientific/Engineering :: Artificial Intelligence", "Topic :: Scientific/Engineering :: Bio-Informatics"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=[name, name + ".*"]), f"{name}.experiments", f"{name}.manifests"],
    package_dir={f"{name}.experiments": "nbs/experiments", f"{name}.manifests": "data_manifests"},  # folders of the checkout that travel inside the package
    package_data={f"{name}.experiments": ["*.ipynb"], f"{name}.manifests": ["*.yaml"]},
    install_requires=words("requirements"),
    extras_require=extras,
    python_requires=">=" + settings["min_python"],
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{name}={settings['lib_path']}._modidx:d"]},
    zip_safe=False,
)
