#!/bin/sh
# Put _build/notebooks on the branch that the launch buttons open, as one commit without a past:
# publish_notebooks.sh REMOTE BRANCH
set -eu
remote=$1
branch=$2
source=$(git rev-parse --short HEAD)
tree=$(
    GIT_DIR=$(git rev-parse --absolute-git-dir)
    GIT_INDEX_FILE=$GIT_DIR/notebooks-index
    export GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE=.
    cd _build/notebooks
    rm -f "$GIT_INDEX_FILE"
    git add --force book README.md requirements.txt
    git write-tree
)
commit=$(
    git -c user.name="The SSM Book" -c user.email="noreply@github.com" \
        commit-tree -m "Notebooks of $source" "$tree"
)
git push --force "$remote" "$commit:refs/heads/$branch"
