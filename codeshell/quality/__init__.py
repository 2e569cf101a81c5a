"""The learned quality score: labels, training, its honest evaluation, and scoring of any files with it.

annotate   asks a large language model for labels
labels     reads texts with scores from 0 to 5
reference  a sample of unlabelled code that is known to be good, and of code that is known to be bad
features   runs the scorers whose columns a model reads
folds      splits by repository
metrics    agreement of predictions and labels, with intervals
fit        trains a model, and predicts each label by a model that has not seen its repository
card       the Markdown page that lies beside a model
encoder_train  trains a head on a BERT, frozen or fine-tuned, and its mix with the trees
apply      scores files outside of a run
"""
