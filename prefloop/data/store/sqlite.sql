CREATE TABLE prefloop_schema (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT prefloop_schema_pkc PRIMARY KEY (version_num)
)

CREATE TABLE prompt (
	id INTEGER NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	content JSON NOT NULL,
	tags JSON NOT NULL,
	origin TEXT NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_prompt PRIMARY KEY (id),
	CONSTRAINT uq_prompt_sha256 UNIQUE (sha256)
)

CREATE TABLE annotator (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	kind VARCHAR(16) NOT NULL,
	settings JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_annotator PRIMARY KEY (id),
	CONSTRAINT uq_annotator_name UNIQUE (name),
	CONSTRAINT ck_annotator_kind CHECK (kind IN ('human', 'ai', 'simulated'))
)

CREATE TABLE training_run (
	id INTEGER NOT NULL,
	stage TEXT NOT NULL,
	folder TEXT NOT NULL,
	status VARCHAR(16) NOT NULL,
	reason TEXT NOT NULL,
	config JSON NOT NULL,
	metrics JSON NOT NULL,
	version TEXT NOT NULL,
	started_at DATETIME NOT NULL,
	finished_at DATETIME,
	CONSTRAINT pk_training_run PRIMARY KEY (id),
	CONSTRAINT ck_training_run_status CHECK (status IN ('running', 'finished', 'interrupted', 'failed'))
)

CREATE TABLE checkpoint (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	weights_sha256 VARCHAR(64) NOT NULL,
	kind VARCHAR(32) NOT NULL,
	stage TEXT NOT NULL,
	step INTEGER NOT NULL,
	parent_id INTEGER,
	training_run_id INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_checkpoint PRIMARY KEY (id),
	CONSTRAINT uq_checkpoint_name_weights_sha256 UNIQUE (name, weights_sha256),
	CONSTRAINT fk_checkpoint_parent_id FOREIGN KEY(parent_id) REFERENCES checkpoint (id),
	CONSTRAINT fk_checkpoint_training_run_id FOREIGN KEY(training_run_id) REFERENCES training_run (id)
)

CREATE INDEX ix_checkpoint_training_run_id ON checkpoint (training_run_id)

CREATE INDEX ix_checkpoint_parent_id ON checkpoint (parent_id)

CREATE TABLE completion (
	id INTEGER NOT NULL,
	prompt_id INTEGER NOT NULL,
	checkpoint_id INTEGER NOT NULL,
	text TEXT NOT NULL,
	text_sha256 VARCHAR(64) NOT NULL,
	logprob FLOAT NOT NULL,
	tokens INTEGER NOT NULL,
	ended BOOLEAN NOT NULL,
	temperature FLOAT NOT NULL,
	top_p FLOAT NOT NULL,
	top_k INTEGER NOT NULL,
	seed BIGINT NOT NULL,
	sample_index INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_completion PRIMARY KEY (id),
	CONSTRAINT uq_completion_sample UNIQUE (prompt_id, checkpoint_id, seed, sample_index, temperature, top_p, top_k, text_sha256),
	CONSTRAINT fk_completion_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompt (id),
	CONSTRAINT fk_completion_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoint (id)
)

CREATE INDEX ix_completion_checkpoint_id ON completion (checkpoint_id)

CREATE TABLE item (
	id INTEGER NOT NULL,
	"key" VARCHAR(64) NOT NULL,
	prompt_id INTEGER NOT NULL,
	kind VARCHAR(16) NOT NULL,
	strategy TEXT NOT NULL,
	round INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_item PRIMARY KEY (id),
	CONSTRAINT uq_item_key UNIQUE ("key"),
	CONSTRAINT fk_item_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompt (id)
)

CREATE INDEX ix_item_round ON item (round)

CREATE INDEX ix_item_prompt_id ON item (prompt_id)

CREATE TABLE item_completion (
	item_id INTEGER NOT NULL,
	slot INTEGER NOT NULL,
	completion_id INTEGER NOT NULL,
	CONSTRAINT pk_item_completion PRIMARY KEY (item_id, slot),
	CONSTRAINT uq_item_completion_item_id_completion_id UNIQUE (item_id, completion_id),
	CONSTRAINT fk_item_completion_item_id FOREIGN KEY(item_id) REFERENCES item (id),
	CONSTRAINT fk_item_completion_completion_id FOREIGN KEY(completion_id) REFERENCES completion (id)
)

CREATE INDEX ix_item_completion_completion_id ON item_completion (completion_id)

CREATE TABLE judgement (
	id INTEGER NOT NULL,
	item_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	order_shown JSON NOT NULL,
	choice VARCHAR(16) NOT NULL,
	strength INTEGER NOT NULL,
	margin FLOAT NOT NULL,
	ranking JSON NOT NULL,
	duration_ms BIGINT NOT NULL,
	guideline_version TEXT NOT NULL,
	idempotency_key TEXT NOT NULL,
	supersedes_id INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_judgement PRIMARY KEY (id),
	CONSTRAINT uq_judgement_id_item_id_annotator_id UNIQUE (id, item_id, annotator_id),
	CONSTRAINT uq_judgement_idempotency_key UNIQUE (idempotency_key),
	CONSTRAINT uq_judgement_supersedes_id UNIQUE (supersedes_id),
	CONSTRAINT fk_judgement_supersedes_id_item_id_annotator_id FOREIGN KEY(supersedes_id, item_id, annotator_id) REFERENCES judgement (id, item_id, annotator_id),
	CONSTRAINT fk_judgement_item_id FOREIGN KEY(item_id) REFERENCES item (id),
	CONSTRAINT fk_judgement_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_judgement_annotator_id ON judgement (annotator_id)

CREATE INDEX ix_judgement_created_at ON judgement (created_at)

CREATE UNIQUE INDEX uq_judgement_first ON judgement (item_id, annotator_id) WHERE supersedes_id IS NULL

CREATE TABLE export (
	id INTEGER NOT NULL,
	"key" VARCHAR(64) NOT NULL,
	kind VARCHAR(32) NOT NULL,
	filters JSON NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	rows INTEGER NOT NULL,
	left_out JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_export PRIMARY KEY (id),
	CONSTRAINT uq_export_key UNIQUE ("key")
)

CREATE TABLE export_judgement (
	export_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	judgement_id INTEGER NOT NULL,
	CONSTRAINT pk_export_judgement PRIMARY KEY (export_id, position),
	CONSTRAINT uq_export_judgement_export_id_judgement_id UNIQUE (export_id, judgement_id),
	CONSTRAINT fk_export_judgement_export_id FOREIGN KEY(export_id) REFERENCES export (id),
	CONSTRAINT fk_export_judgement_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id)
)

CREATE INDEX ix_export_judgement_judgement_id ON export_judgement (judgement_id)

CREATE TABLE export_prompt (
	export_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	prompt_id INTEGER NOT NULL,
	CONSTRAINT pk_export_prompt PRIMARY KEY (export_id, position),
	CONSTRAINT uq_export_prompt_export_id_prompt_id UNIQUE (export_id, prompt_id),
	CONSTRAINT fk_export_prompt_export_id FOREIGN KEY(export_id) REFERENCES export (id),
	CONSTRAINT fk_export_prompt_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompt (id)
)

CREATE INDEX ix_export_prompt_prompt_id ON export_prompt (prompt_id)

CREATE TABLE training_run_model (
	training_run_id INTEGER NOT NULL,
	role TEXT NOT NULL,
	checkpoint_id INTEGER NOT NULL,
	CONSTRAINT pk_training_run_model PRIMARY KEY (training_run_id, role),
	CONSTRAINT fk_training_run_model_training_run_id FOREIGN KEY(training_run_id) REFERENCES training_run (id),
	CONSTRAINT fk_training_run_model_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoint (id)
)

CREATE INDEX ix_training_run_model_checkpoint_id ON training_run_model (checkpoint_id)

CREATE TABLE training_run_export (
	training_run_id INTEGER NOT NULL,
	export_id INTEGER NOT NULL,
	CONSTRAINT pk_training_run_export PRIMARY KEY (training_run_id, export_id),
	CONSTRAINT fk_training_run_export_training_run_id FOREIGN KEY(training_run_id) REFERENCES training_run (id),
	CONSTRAINT fk_training_run_export_export_id FOREIGN KEY(export_id) REFERENCES export (id)
)

CREATE INDEX ix_training_run_export_export_id ON training_run_export (export_id)

CREATE TABLE training_run_source (
	training_run_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	name TEXT NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	rows INTEGER NOT NULL,
	role TEXT NOT NULL,
	CONSTRAINT pk_training_run_source PRIMARY KEY (training_run_id, position),
	CONSTRAINT fk_training_run_source_training_run_id FOREIGN KEY(training_run_id) REFERENCES training_run (id)
)

CREATE TRIGGER refuse_update_of_judgement BEFORE UPDATE ON judgement BEGIN SELECT RAISE(ABORT, 'UPDATE of judgement is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_judgement BEFORE DELETE ON judgement BEGIN SELECT RAISE(ABORT, 'DELETE of judgement is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_export BEFORE UPDATE ON export BEGIN SELECT RAISE(ABORT, 'UPDATE of export is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_export BEFORE DELETE ON export BEGIN SELECT RAISE(ABORT, 'DELETE of export is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_export_judgement BEFORE UPDATE ON export_judgement BEGIN SELECT RAISE(ABORT, 'UPDATE of export_judgement is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_export_judgement BEFORE DELETE ON export_judgement BEGIN SELECT RAISE(ABORT, 'DELETE of export_judgement is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_export_prompt BEFORE UPDATE ON export_prompt BEGIN SELECT RAISE(ABORT, 'UPDATE of export_prompt is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_export_prompt BEFORE DELETE ON export_prompt BEGIN SELECT RAISE(ABORT, 'DELETE of export_prompt is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_completion BEFORE UPDATE ON completion BEGIN SELECT RAISE(ABORT, 'UPDATE of completion is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_item_completion BEFORE UPDATE ON item_completion BEGIN SELECT RAISE(ABORT, 'UPDATE of item_completion is refused: what was said stays; add a row that supersedes it'); END

CREATE TABLE judgement_detail (
	judgement_id INTEGER NOT NULL,
	assignment_id INTEGER,
	rationale TEXT NOT NULL,
	flags JSON NOT NULL,
	ratings JSON NOT NULL,
	edited TEXT NOT NULL,
	edit_judgement_id INTEGER,
	CONSTRAINT pk_judgement_detail PRIMARY KEY (judgement_id),
	CONSTRAINT fk_judgement_detail_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id),
	CONSTRAINT fk_judgement_detail_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignment (id),
	CONSTRAINT fk_judgement_detail_edit_judgement_id FOREIGN KEY(edit_judgement_id) REFERENCES judgement (id)
)

CREATE INDEX ix_judgement_detail_edit_judgement_id ON judgement_detail (edit_judgement_id)

CREATE INDEX ix_judgement_detail_assignment_id ON judgement_detail (assignment_id)

CREATE TABLE api_token (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	prefix VARCHAR(16) NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	account_id INTEGER NOT NULL,
	scopes JSON NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME,
	CONSTRAINT pk_api_token PRIMARY KEY (id),
	CONSTRAINT uq_api_token_token_sha256 UNIQUE (token_sha256),
	CONSTRAINT fk_api_token_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_api_token_account_id ON api_token (account_id)

CREATE TABLE audit_event (
	id INTEGER NOT NULL,
	at DATETIME NOT NULL,
	annotator_id INTEGER,
	action VARCHAR(32) NOT NULL,
	entity VARCHAR(32) NOT NULL,
	entity_id INTEGER NOT NULL,
	detail JSON NOT NULL,
	CONSTRAINT pk_audit_event PRIMARY KEY (id),
	CONSTRAINT fk_audit_event_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_audit_event_annotator_id ON audit_event (annotator_id)

CREATE INDEX ix_audit_event_at ON audit_event (at)

CREATE TRIGGER refuse_update_of_judgement_detail BEFORE UPDATE ON judgement_detail BEGIN SELECT RAISE(ABORT, 'UPDATE of judgement_detail is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_judgement_detail BEFORE DELETE ON judgement_detail BEGIN SELECT RAISE(ABORT, 'DELETE of judgement_detail is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_audit_event BEFORE UPDATE ON audit_event BEGIN SELECT RAISE(ABORT, 'UPDATE of audit_event is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_audit_event BEFORE DELETE ON audit_event BEGIN SELECT RAISE(ABORT, 'DELETE of audit_event is refused: what was said stays; add a row that supersedes it'); END

CREATE TABLE chat (
	id INTEGER NOT NULL,
	token VARCHAR(32) NOT NULL,
	project_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	draft TEXT NOT NULL,
	started_at DATETIME NOT NULL,
	CONSTRAINT pk_chat PRIMARY KEY (id),
	CONSTRAINT uq_chat_token UNIQUE (token),
	CONSTRAINT ck_chat_state CHECK (state IN ('open', 'ended')),
	CONSTRAINT fk_chat_project_id FOREIGN KEY(project_id) REFERENCES project (id),
	CONSTRAINT fk_chat_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_chat_project_id ON chat (project_id)

CREATE INDEX ix_chat_annotator_id ON chat (annotator_id)

CREATE TABLE adjudication (
	judgement_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	CONSTRAINT pk_adjudication PRIMARY KEY (judgement_id),
	CONSTRAINT fk_adjudication_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id),
	CONSTRAINT fk_adjudication_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_adjudication_annotator_id ON adjudication (annotator_id)

CREATE TRIGGER refuse_update_of_adjudication BEFORE UPDATE ON adjudication BEGIN SELECT RAISE(ABORT, 'UPDATE of adjudication is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_adjudication BEFORE DELETE ON adjudication BEGIN SELECT RAISE(ABORT, 'DELETE of adjudication is refused: what was said stays; add a row that supersedes it'); END

CREATE TABLE password_reset (
	id INTEGER NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	account_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	CONSTRAINT pk_password_reset PRIMARY KEY (id),
	CONSTRAINT uq_password_reset_token_sha256 UNIQUE (token_sha256),
	CONSTRAINT fk_password_reset_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_password_reset_account_id ON password_reset (account_id)

CREATE TABLE membership (
	id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	role VARCHAR(16) NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_membership PRIMARY KEY (id),
	CONSTRAINT uq_membership_project_id_account_id UNIQUE (project_id, account_id),
	CONSTRAINT ck_membership_role CHECK (role IN ('annotator', 'adjudicator', 'manager')),
	CONSTRAINT fk_membership_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE,
	CONSTRAINT fk_membership_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_membership_account_id ON membership (account_id)

CREATE TABLE "invitation" (
	id INTEGER NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	role VARCHAR(16) NOT NULL,
	setup BOOLEAN NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	used_at DATETIME,
	note TEXT NOT NULL,
	uses INTEGER NOT NULL,
	most_uses INTEGER NOT NULL,
	revoked_at DATETIME,
	CONSTRAINT pk_invitation PRIMARY KEY (id),
	CONSTRAINT uq_invitation_token_sha256 UNIQUE (token_sha256),
	CONSTRAINT ck_invitation_role CHECK (role IN ('admin', 'annotator', 'adjudicator', 'manager')),
	CONSTRAINT ck_invitation_uses CHECK (uses >= 0 AND uses <= most_uses)
)

CREATE TABLE invitation_project (
	invitation_id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	CONSTRAINT pk_invitation_project PRIMARY KEY (invitation_id, project_id),
	CONSTRAINT fk_invitation_project_invitation_id FOREIGN KEY(invitation_id) REFERENCES invitation (id) ON DELETE CASCADE,
	CONSTRAINT fk_invitation_project_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE
)

CREATE TABLE export_pair (
	export_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	item_id INTEGER NOT NULL,
	choice VARCHAR(1) NOT NULL,
	p_soft FLOAT NOT NULL,
	CONSTRAINT pk_export_pair PRIMARY KEY (export_id, position),
	CONSTRAINT ck_export_pair_choice CHECK (choice IN ('a', 'b')),
	CONSTRAINT fk_export_pair_export_id FOREIGN KEY(export_id) REFERENCES export (id),
	CONSTRAINT fk_export_pair_item_id FOREIGN KEY(item_id) REFERENCES item (id)
)

CREATE INDEX ix_export_pair_item_id ON export_pair (item_id)

CREATE TABLE dataset_version (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	version INTEGER NOT NULL,
	export_id INTEGER NOT NULL,
	chosen JSON NOT NULL,
	changes JSON NOT NULL,
	note TEXT NOT NULL,
	annotator_id INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_dataset_version PRIMARY KEY (id),
	CONSTRAINT uq_dataset_version_name_version UNIQUE (name, version),
	CONSTRAINT fk_dataset_version_export_id FOREIGN KEY(export_id) REFERENCES export (id),
	CONSTRAINT fk_dataset_version_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_dataset_version_annotator_id ON dataset_version (annotator_id)

CREATE INDEX ix_dataset_version_export_id ON dataset_version (export_id)

CREATE TRIGGER refuse_update_of_export_pair BEFORE UPDATE ON export_pair BEGIN SELECT RAISE(ABORT, 'UPDATE of export_pair is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_export_pair BEFORE DELETE ON export_pair BEGIN SELECT RAISE(ABORT, 'DELETE of export_pair is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_dataset_version BEFORE UPDATE ON dataset_version BEGIN SELECT RAISE(ABORT, 'UPDATE of dataset_version is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_dataset_version BEFORE DELETE ON dataset_version BEGIN SELECT RAISE(ABORT, 'DELETE of dataset_version is refused: what was said stays; add a row that supersedes it'); END

CREATE TABLE "web_session" (
	id INTEGER NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	csrf VARCHAR(64) NOT NULL,
	account_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	seen_at DATETIME NOT NULL,
	browser VARCHAR(60) NOT NULL,
	CONSTRAINT pk_web_session PRIMARY KEY (id),
	CONSTRAINT uq_web_session_token_sha256 UNIQUE (token_sha256),
	CONSTRAINT fk_web_session_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_web_session_account_id ON web_session (account_id)

CREATE TABLE recovery_code (
	id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	code_sha256 VARCHAR(64) NOT NULL,
	CONSTRAINT pk_recovery_code PRIMARY KEY (id),
	CONSTRAINT uq_recovery_code_code_sha256 UNIQUE (code_sha256),
	CONSTRAINT fk_recovery_code_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_recovery_code_account_id ON recovery_code (account_id)

CREATE TABLE second_step (
	id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	token_sha256 VARCHAR(64) NOT NULL,
	expires_at DATETIME NOT NULL,
	CONSTRAINT pk_second_step PRIMARY KEY (id),
	CONSTRAINT uq_second_step_token_sha256 UNIQUE (token_sha256),
	CONSTRAINT fk_second_step_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_second_step_account_id ON second_step (account_id)

CREATE TABLE guideline_version (
	project_id INTEGER NOT NULL,
	version VARCHAR(12) NOT NULL,
	text TEXT NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_guideline_version PRIMARY KEY (project_id, version),
	CONSTRAINT fk_guideline_version_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE
)

CREATE TABLE guideline_reading (
	id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	version VARCHAR(12) NOT NULL,
	at DATETIME NOT NULL,
	CONSTRAINT pk_guideline_reading PRIMARY KEY (id),
	CONSTRAINT uq_guideline_reading_project_id_annotator_id_version UNIQUE (project_id, annotator_id, version),
	CONSTRAINT fk_guideline_reading_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE,
	CONSTRAINT fk_guideline_reading_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_guideline_reading_annotator_id ON guideline_reading (annotator_id)

CREATE TABLE standing (
	id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	qualified BOOLEAN NOT NULL,
	why TEXT NOT NULL,
	gold_since DATETIME,
	changed_at DATETIME NOT NULL,
	CONSTRAINT pk_standing PRIMARY KEY (id),
	CONSTRAINT uq_standing_project_id_annotator_id UNIQUE (project_id, annotator_id),
	CONSTRAINT ck_standing_state CHECK (state IN ('working', 'paused', 'failed')),
	CONSTRAINT fk_standing_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE,
	CONSTRAINT fk_standing_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_standing_annotator_id ON standing (annotator_id)

CREATE TABLE "task" (
	id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	item_id INTEGER NOT NULL,
	queue FLOAT NOT NULL,
	position INTEGER NOT NULL,
	overlap INTEGER NOT NULL,
	taken INTEGER NOT NULL,
	open BOOLEAN NOT NULL,
	gold VARCHAR(16) NOT NULL,
	stage VARCHAR(16) NOT NULL,
	gold_note TEXT NOT NULL,
	archived BOOLEAN NOT NULL,
	audience TEXT NOT NULL,
	CONSTRAINT pk_task PRIMARY KEY (id),
	CONSTRAINT ck_task_stage CHECK (stage IN ('', 'practice', 'qualification')),
	CONSTRAINT fk_task_item_id FOREIGN KEY(item_id) REFERENCES item (id),
	CONSTRAINT uq_task_project_id_item_id UNIQUE (project_id, item_id),
	CONSTRAINT fk_task_project_id FOREIGN KEY(project_id) REFERENCES project (id),
	CONSTRAINT ck_task_taken CHECK (taken >= 0 AND taken <= overlap)
)

CREATE INDEX ix_task_stage ON task (project_id, stage)

CREATE INDEX ix_task_item_id ON task (item_id)

CREATE TABLE account_tag (
	id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	tag TEXT NOT NULL,
	CONSTRAINT pk_account_tag PRIMARY KEY (id),
	CONSTRAINT uq_account_tag_account_id_tag UNIQUE (account_id, tag),
	CONSTRAINT fk_account_tag_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_account_tag_account_id ON account_tag (account_id)

CREATE TABLE note (
	id INTEGER NOT NULL,
	assignment_id INTEGER NOT NULL,
	annotator_id INTEGER,
	kind VARCHAR(16) NOT NULL,
	text TEXT NOT NULL,
	at DATETIME NOT NULL,
	CONSTRAINT pk_note PRIMARY KEY (id),
	CONSTRAINT ck_note_kind CHECK (kind IN ('sent_back', 'revised', 'dispute', 'settled')),
	CONSTRAINT fk_note_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignment (id),
	CONSTRAINT fk_note_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_note_annotator_id ON note (annotator_id)

CREATE INDEX ix_note_assignment_id ON note (assignment_id)

CREATE TABLE question_answer (
	id INTEGER NOT NULL,
	judgement_id INTEGER NOT NULL,
	completion_id INTEGER,
	question VARCHAR(40) NOT NULL,
	value JSON NOT NULL,
	CONSTRAINT pk_question_answer PRIMARY KEY (id),
	CONSTRAINT uq_question_answer_judgement_id_question_completion_id UNIQUE (judgement_id, question, completion_id),
	CONSTRAINT fk_question_answer_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id),
	CONSTRAINT fk_question_answer_completion_id FOREIGN KEY(completion_id) REFERENCES completion (id)
)

CREATE INDEX ix_question_answer_completion_id ON question_answer (completion_id)

CREATE TABLE span (
	id INTEGER NOT NULL,
	judgement_id INTEGER NOT NULL,
	completion_id INTEGER NOT NULL,
	question VARCHAR(40) NOT NULL,
	start INTEGER NOT NULL,
	stop INTEGER NOT NULL,
	label TEXT NOT NULL,
	comment TEXT NOT NULL,
	CONSTRAINT pk_span PRIMARY KEY (id),
	CONSTRAINT ck_span_part CHECK (start >= 0 AND stop > start),
	CONSTRAINT fk_span_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id),
	CONSTRAINT fk_span_completion_id FOREIGN KEY(completion_id) REFERENCES completion (id)
)

CREATE INDEX ix_span_completion_id ON span (completion_id)

CREATE INDEX ix_span_judgement_id ON span (judgement_id)

CREATE TABLE suggestion (
	assignment_id INTEGER NOT NULL,
	judgement_id INTEGER NOT NULL,
	shown BOOLEAN NOT NULL,
	CONSTRAINT pk_suggestion PRIMARY KEY (assignment_id),
	CONSTRAINT fk_suggestion_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignment (id),
	CONSTRAINT fk_suggestion_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id)
)

CREATE INDEX ix_suggestion_judgement_id ON suggestion (judgement_id)

CREATE TRIGGER refuse_update_of_question_answer BEFORE UPDATE ON question_answer BEGIN SELECT RAISE(ABORT, 'UPDATE of question_answer is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_question_answer BEFORE DELETE ON question_answer BEGIN SELECT RAISE(ABORT, 'DELETE of question_answer is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_update_of_span BEFORE UPDATE ON span BEGIN SELECT RAISE(ABORT, 'UPDATE of span is refused: what was said stays; add a row that supersedes it'); END

CREATE TRIGGER refuse_delete_of_span BEFORE DELETE ON span BEGIN SELECT RAISE(ABORT, 'DELETE of span is refused: what was said stays; add a row that supersedes it'); END

CREATE TABLE webhook (
	id INTEGER NOT NULL,
	url TEXT NOT NULL,
	secret TEXT NOT NULL,
	actions JSON NOT NULL,
	active BOOLEAN NOT NULL,
	delivered_at DATETIME,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_webhook PRIMARY KEY (id)
)

CREATE TABLE webhook_delivery (
	id INTEGER NOT NULL,
	webhook_id INTEGER NOT NULL,
	event_id INTEGER NOT NULL,
	attempts INTEGER NOT NULL,
	due_at DATETIME,
	problem TEXT NOT NULL,
	CONSTRAINT pk_webhook_delivery PRIMARY KEY (id),
	CONSTRAINT fk_webhook_delivery_webhook_id FOREIGN KEY(webhook_id) REFERENCES webhook (id) ON DELETE CASCADE,
	CONSTRAINT fk_webhook_delivery_event_id FOREIGN KEY(event_id) REFERENCES audit_event (id)
)

CREATE INDEX ix_webhook_delivery_webhook_id ON webhook_delivery (webhook_id)

CREATE INDEX ix_webhook_delivery_due_at ON webhook_delivery (due_at)

CREATE TABLE erasure (
	id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	proof JSON NOT NULL,
	at DATETIME NOT NULL,
	CONSTRAINT pk_erasure PRIMARY KEY (id),
	CONSTRAINT fk_erasure_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id)
)

CREATE INDEX ix_erasure_annotator_id ON erasure (annotator_id)

CREATE TABLE "chat_turn" (
	id INTEGER NOT NULL,
	chat_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	message TEXT NOT NULL,
	idempotency_key TEXT NOT NULL,
	state VARCHAR(16) NOT NULL,
	problem TEXT NOT NULL,
	claimed_until DATETIME NOT NULL,
	assignment_id INTEGER,
	created_at DATETIME NOT NULL,
	partial JSON NOT NULL,
	stopping BOOLEAN NOT NULL,
	CONSTRAINT pk_chat_turn PRIMARY KEY (id),
	CONSTRAINT uq_chat_turn_chat_id_position UNIQUE (chat_id, position),
	CONSTRAINT uq_chat_turn_chat_id_idempotency_key UNIQUE (chat_id, idempotency_key),
	CONSTRAINT ck_chat_turn_state CHECK (state IN ('waiting', 'failed', 'asked')),
	CONSTRAINT fk_chat_turn_chat_id FOREIGN KEY(chat_id) REFERENCES chat (id),
	CONSTRAINT fk_chat_turn_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignment (id)
)

CREATE INDEX ix_chat_turn_assignment_id ON chat_turn (assignment_id)

CREATE TABLE identity (
	id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	issuer TEXT NOT NULL,
	subject TEXT NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_identity PRIMARY KEY (id),
	CONSTRAINT uq_identity_issuer_subject UNIQUE (issuer, subject),
	CONSTRAINT fk_identity_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE INDEX ix_identity_account_id ON identity (account_id)

CREATE TABLE "project" (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	kind VARCHAR(16) NOT NULL,
	guidelines TEXT NOT NULL,
	overlap INTEGER NOT NULL,
	lease_seconds INTEGER NOT NULL,
	strength_levels INTEGER NOT NULL,
	allow_tie BOOLEAN NOT NULL,
	allow_both_bad BOOLEAN NOT NULL,
	flags JSON NOT NULL,
	scales JSON NOT NULL,
	render VARCHAR(16) NOT NULL,
	gold_share FLOAT NOT NULL,
	state VARCHAR(16) NOT NULL,
	created_at DATETIME NOT NULL,
	access VARCHAR(16) NOT NULL,
	daily_quota INTEGER NOT NULL,
	quota INTEGER NOT NULL,
	qualify_items INTEGER NOT NULL,
	qualify_share FLOAT NOT NULL,
	gold_floor FLOAT NOT NULL,
	gold_window INTEGER NOT NULL,
	least_seconds FLOAT NOT NULL,
	questions JSON NOT NULL,
	suggest_from TEXT NOT NULL,
	suggest_share FLOAT NOT NULL,
	reveal BOOLEAN NOT NULL,
	visitor_messages INTEGER NOT NULL,
	visitor_chats INTEGER NOT NULL,
	visitor_tokens INTEGER NOT NULL,
	visitor_length INTEGER NOT NULL,
	CONSTRAINT pk_project PRIMARY KEY (id),
	CONSTRAINT ck_project_kind CHECK (kind IN ('pair', 'rank', 'rate', 'binary', 'edit', 'clip', 'chat', 'best_worst')),
	CONSTRAINT ck_project_gold_floor CHECK (gold_window >= 1 AND gold_floor >= 0 AND gold_floor <= 1),
	CONSTRAINT uq_project_name UNIQUE (name),
	CONSTRAINT ck_project_quotas CHECK (daily_quota >= 0 AND quota >= 0),
	CONSTRAINT ck_project_state CHECK (state IN ('open', 'paused', 'closed', 'archived', 'deleted')),
	CONSTRAINT ck_project_access CHECK (access IN ('members', 'everyone', 'public'))
)

CREATE TABLE "account" (
	id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	login TEXT NOT NULL,
	password_hash TEXT NOT NULL,
	role VARCHAR(16) NOT NULL,
	active BOOLEAN NOT NULL,
	settings JSON NOT NULL,
	created_at DATETIME NOT NULL,
	totp_secret TEXT NOT NULL,
	totp_step INTEGER NOT NULL,
	totp_failures INTEGER NOT NULL,
	totp_blocked_until DATETIME,
	CONSTRAINT pk_account PRIMARY KEY (id),
	CONSTRAINT uq_account_annotator_id UNIQUE (annotator_id),
	CONSTRAINT uq_account_login UNIQUE (login),
	CONSTRAINT fk_account_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id),
	CONSTRAINT ck_account_role CHECK (role IN ('admin', 'annotator', 'adjudicator', 'guest'))
)

CREATE TABLE study (
	id INTEGER NOT NULL,
	project_id INTEGER NOT NULL,
	token VARCHAR(32) NOT NULL,
	platform VARCHAR(16) NOT NULL,
	places INTEGER NOT NULL,
	code TEXT NOT NULL,
	open BOOLEAN NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_study PRIMARY KEY (id),
	CONSTRAINT ck_study_platform CHECK (platform IN ('prolific', 'mturk')),
	CONSTRAINT ck_study_places CHECK (places >= 1),
	CONSTRAINT fk_study_project_id FOREIGN KEY(project_id) REFERENCES project (id) ON DELETE CASCADE,
	CONSTRAINT uq_study_token UNIQUE (token)
)

CREATE INDEX ix_study_project_id ON study (project_id)

CREATE TABLE participant (
	id INTEGER NOT NULL,
	study_id INTEGER NOT NULL,
	account_id INTEGER NOT NULL,
	name TEXT NOT NULL,
	started_at DATETIME NOT NULL,
	completed_at DATETIME,
	CONSTRAINT pk_participant PRIMARY KEY (id),
	CONSTRAINT uq_participant_study_id_name UNIQUE (study_id, name),
	CONSTRAINT fk_participant_study_id FOREIGN KEY(study_id) REFERENCES study (id) ON DELETE CASCADE,
	CONSTRAINT uq_participant_account_id UNIQUE (account_id),
	CONSTRAINT fk_participant_account_id FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)

CREATE TABLE image (
	sha256 VARCHAR(64) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	width INTEGER NOT NULL,
	height INTEGER NOT NULL,
	content BLOB NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_image PRIMARY KEY (sha256),
	CONSTRAINT ck_image_kind CHECK (kind IN ('image/jpeg', 'image/png'))
)

CREATE TRIGGER refuse_update_of_image BEFORE UPDATE ON image BEGIN SELECT RAISE(ABORT, 'UPDATE of image is refused: what was judged stays; add another image'); END

CREATE INDEX ix_task_queue ON task (project_id, gold, queue, taken, position, id) WHERE open = 1

CREATE INDEX ix_judgement_item_id_annotator_id ON judgement (item_id, annotator_id)

CREATE TABLE "assignment" (
	id INTEGER NOT NULL,
	token VARCHAR(32) NOT NULL,
	task_id INTEGER NOT NULL,
	annotator_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	order_shown JSON NOT NULL,
	leased_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	finished_at DATETIME,
	judgement_id INTEGER,
	draft JSON NOT NULL,
	project_id INTEGER NOT NULL,
	CONSTRAINT pk_assignment PRIMARY KEY (id),
	CONSTRAINT fk_assignment_task_id FOREIGN KEY(task_id) REFERENCES task (id),
	CONSTRAINT fk_assignment_judgement_id FOREIGN KEY(judgement_id) REFERENCES judgement (id),
	CONSTRAINT fk_assignment_annotator_id FOREIGN KEY(annotator_id) REFERENCES annotator (id),
	CONSTRAINT uq_assignment_task_id_annotator_id UNIQUE (task_id, annotator_id),
	CONSTRAINT uq_assignment_token UNIQUE (token),
	CONSTRAINT ck_assignment_state CHECK (state IN ('leased', 'submitted', 'skipped', 'expired', 'returned', 'surplus'))
)

CREATE INDEX ix_assignment_state_expires_at ON assignment (state, expires_at)

CREATE INDEX ix_assignment_judgement_id ON assignment (judgement_id)

CREATE INDEX ix_assignment_of ON assignment (annotator_id, project_id, state)

CREATE TABLE tally (
	id INTEGER NOT NULL,
	project_id INTEGER,
	annotator_id INTEGER,
	what VARCHAR(16) NOT NULL,
	n BIGINT NOT NULL,
	CONSTRAINT pk_tally PRIMARY KEY (id)
)

CREATE INDEX ix_tally_project_id ON tally (project_id)

CREATE INDEX ix_assignment_history ON assignment (annotator_id, finished_at, id) WHERE judgement_id IS NOT NULL

CREATE INDEX ix_assignment_newest ON assignment (project_id, finished_at, id) WHERE judgement_id IS NOT NULL

CREATE TRIGGER tally_insert_task AFTER INSERT ON task BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT NEW.project_id, NULL, what, n FROM (SELECT 'items' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'wanted' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' THEN NEW.overlap ELSE 0 END) AS n UNION ALL SELECT 'full' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' AND NEW.taken >= NEW.overlap THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'gold' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold <> '' THEN 1 ELSE 0 END) AS n) AS sums WHERE n <> 0; END

CREATE TRIGGER tally_update_task AFTER UPDATE ON task WHEN (OLD.overlap <> NEW.overlap OR OLD.archived <> NEW.archived OR OLD.gold <> NEW.gold OR (OLD.taken >= OLD.overlap) <> (NEW.taken >= NEW.overlap)) BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT NEW.project_id, NULL, what, n FROM (SELECT 'items' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' THEN 1 ELSE 0 END) -(CASE WHEN NOT OLD.archived AND OLD.gold = '' THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'wanted' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' THEN NEW.overlap ELSE 0 END) -(CASE WHEN NOT OLD.archived AND OLD.gold = '' THEN OLD.overlap ELSE 0 END) AS n UNION ALL SELECT 'full' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold = '' AND NEW.taken >= NEW.overlap THEN 1 ELSE 0 END) -(CASE WHEN NOT OLD.archived AND OLD.gold = '' AND OLD.taken >= OLD.overlap THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'gold' AS what, +(CASE WHEN NOT NEW.archived AND NEW.gold <> '' THEN 1 ELSE 0 END) -(CASE WHEN NOT OLD.archived AND OLD.gold <> '' THEN 1 ELSE 0 END) AS n) AS sums WHERE n <> 0; INSERT INTO tally (project_id, annotator_id, what, n) SELECT NEW.project_id, annotator_id, state, CASE WHEN (NOT NEW.archived AND NEW.gold = '') THEN 1 ELSE -1 END FROM assignment WHERE task_id = NEW.id AND state IN ('submitted', 'skipped', 'surplus') AND (NOT NEW.archived AND NEW.gold = '') <> (NOT OLD.archived AND OLD.gold = ''); END

CREATE TRIGGER tally_delete_task AFTER DELETE ON task BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT OLD.project_id, NULL, what, n FROM (SELECT 'items' AS what, -(CASE WHEN NOT OLD.archived AND OLD.gold = '' THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'wanted' AS what, -(CASE WHEN NOT OLD.archived AND OLD.gold = '' THEN OLD.overlap ELSE 0 END) AS n UNION ALL SELECT 'full' AS what, -(CASE WHEN NOT OLD.archived AND OLD.gold = '' AND OLD.taken >= OLD.overlap THEN 1 ELSE 0 END) AS n UNION ALL SELECT 'gold' AS what, -(CASE WHEN NOT OLD.archived AND OLD.gold <> '' THEN 1 ELSE 0 END) AS n) AS sums WHERE n <> 0; END

CREATE TRIGGER tally_insert_assignment AFTER INSERT ON assignment WHEN (NEW.state IN ('submitted', 'skipped', 'surplus')) BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, NEW.annotator_id, NEW.state, +1 FROM task WHERE id = NEW.task_id AND gold = '' AND NOT archived AND NEW.state IN ('submitted', 'skipped', 'surplus'); END

CREATE TRIGGER tally_update_assignment AFTER UPDATE ON assignment WHEN (OLD.state <> NEW.state AND (OLD.state IN ('submitted', 'skipped', 'surplus') OR NEW.state IN ('submitted', 'skipped', 'surplus'))) BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, OLD.annotator_id, OLD.state, -1 FROM task WHERE id = OLD.task_id AND gold = '' AND NOT archived AND OLD.state IN ('submitted', 'skipped', 'surplus'); INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, NEW.annotator_id, NEW.state, +1 FROM task WHERE id = NEW.task_id AND gold = '' AND NOT archived AND NEW.state IN ('submitted', 'skipped', 'surplus'); END

CREATE TRIGGER tally_delete_assignment AFTER DELETE ON assignment WHEN (OLD.state IN ('submitted', 'skipped', 'surplus')) BEGIN INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, OLD.annotator_id, OLD.state, -1 FROM task WHERE id = OLD.task_id AND gold = '' AND NOT archived AND OLD.state IN ('submitted', 'skipped', 'surplus'); END

CREATE TRIGGER tally_insert_judgement AFTER INSERT ON judgement BEGIN INSERT INTO tally (project_id, annotator_id, what, n) VALUES (NULL, NEW.annotator_id, 'judgements', 1); END
